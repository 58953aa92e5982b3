//! Who may command a component over D-Bus: root, and whom polkit lets.
//!
//! Invariant: without polkit only root may; an error is a refusal.

use std::collections::HashMap;

use zbus::message::Header;
use zbus::{Connection, Variant, fdo};

/// polkit's action for everything about one component: levels, reload, snapshots.
pub const MANAGE: &str = "io.k3s.manage";
/// polkit's action for taking a node out of service.
pub const MANAGE_NODE: &str = "io.k3s.manage-node";

#[zbus::proxy(
    interface = "org.freedesktop.PolicyKit1.Authority",
    default_service = "org.freedesktop.PolicyKit1",
    default_path = "/org/freedesktop/PolicyKit1/Authority"
)]
trait Authority {
    /// Answers whether the subject is authorised, whether that needs a challenge, and details.
    fn check_authorization(
        &self,
        subject: &(&str, HashMap<&str, Variant<'_>>),
        action_id: &str,
        details: &HashMap<&str, &str>,
        flags: u32,
        cancellation_id: &str,
    ) -> zbus::Result<(bool, bool, HashMap<String, String>)>;
}

/// polkit may ask a person for a password.
const ALLOW_USER_INTERACTION: u32 = 1;

/// Refuses the caller of this message unless it is root or polkit allows `action`.
///
/// # Errors
/// `AccessDenied`, naming the action.
pub async fn authorize(bus: &Connection, call: &Header<'_>, action: &str) -> fdo::Result<()> {
    let denied = |why: &str| fdo::Error::AccessDenied(format!("{action}: {why}"));
    let sender = call.sender().ok_or_else(|| denied("the caller is unknown"))?;
    let names = fdo::DBusProxy::new(bus).await?;
    if names.get_connection_unix_user(sender.clone().into()).await? == 0 {
        return Ok(());
    }
    let subject = ("system-bus-name", HashMap::from([("name", Variant::from(sender.as_str()))]));
    let authority = AuthorityProxy::new(bus).await?;
    let asked = authority
        .check_authorization(&subject, action, &HashMap::new(), ALLOW_USER_INTERACTION, "")
        .await;
    match asked {
        Ok((true, ..)) => Ok(()),
        Ok(_) => Err(denied("polkit does not allow it")),
        Err(err) => Err(denied(&format!("only root may, as polkit did not answer: {err}"))),
    }
}
