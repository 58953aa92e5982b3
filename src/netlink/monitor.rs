//! Tells when links or IPv4 addresses of this namespace change.
//!
//! Invariant: an event says only *that* something changed; the reader looks at the kernel again, so
//! a lost message costs nothing but one look.

use futures::StreamExt;
use rtnetlink::MulticastGroup;
use tokio::sync::mpsc;

/// Sends `()` into `changed` for each burst of changes, until the receiver goes away.
///
/// The channel should have room for one: a full channel means that a look is already due.
pub async fn watch(changed: mpsc::Sender<()>) -> std::io::Result<()> {
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr];
    let (connection, _handle, mut messages) = rtnetlink::new_multicast_connection(&groups)?;
    let read = async {
        while messages.next().await.is_some() {
            if let Err(mpsc::error::TrySendError::Closed(())) = changed.try_send(()) {
                return;
            }
        }
    };
    tokio::select! {
        () = connection => Err(std::io::Error::other("the netlink monitor was closed")),
        () = read => Ok(()),
    }
}
