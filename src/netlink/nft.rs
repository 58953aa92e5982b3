//! Whole nftables tables, applied atomically through `nft -f -`, as JSON where that can say it.
//!
//! Knows nothing of what is in a table. Invariant: a caller owns its table alone; replacing it is
//! one transaction, and deleting it removes everything the caller ever put into the kernel.

use crate::{Error, Result};
use nftables::batch::Batch;
use nftables::helper::{self, NftablesError};
use nftables::schema::{NfCmd, NfListObject, Nftables, Table};
use nftables::types::NfFamily;
use std::process::Stdio;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// The name of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableName {
    pub family: NfFamily,
    pub name: &'static str,
}

impl TableName {
    pub const fn ip(name: &'static str) -> Self {
        let family = NfFamily::IP;
        Self { family, name }
    }

    pub const fn ip6(name: &'static str) -> Self {
        let family = NfFamily::IP6;
        Self { family, name }
    }

    fn object(self) -> NfListObject<'static> {
        NfListObject::Table(Table { family: self.family, name: self.name.into(), handle: None })
    }
}

/// A batch that starts by emptying the table, so that applying it replaces the table.
pub fn replacement(table: TableName) -> Batch<'static> {
    let mut batch = Batch::new();
    // "add" first, since a delete of a missing table would fail.
    batch.add(table.object());
    batch.delete(table.object());
    batch.add(table.object());
    batch
}

/// Applies a batch as one transaction.
pub async fn apply(ruleset: &Nftables<'_>) -> Result<()> {
    helper::apply_ruleset_async(ruleset).await.map_err(refused)
}

/// Applies a script in nft's own language as one transaction, for what its JSON form cannot say:
/// Debian 12's nft knows no map from keys to pairs there.
pub async fn apply_script(script: &str) -> Result<()> {
    let failed = |what: &str| {
        let what = what.to_string();
        move |source| Error::Kernel { what, source }
    };
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed("run nft"))?;
    let mut stdin = child.stdin.take().ok_or(Error::Closed)?;
    let write = async {
        // nft may stop reading at the first mistake; its own words say more than the broken pipe.
        let _ = stdin.write_all(script.as_bytes()).await;
        drop(stdin);
    };
    let ((), output) = tokio::join!(write, child.wait_with_output());
    let output = output.map_err(failed("run nft"))?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let text = format!("{}: {}", output.status, stderr.trim());
    Err(Error::Nft(text.chars().take(2000).collect()))
}

/// Removes the table with all that is in it, if it is there.
pub async fn delete_table(table: TableName) -> Result<()> {
    let mut batch = Batch::new();
    batch.add(table.object());
    batch.add_cmd(NfCmd::Delete(table.object()));
    apply(&batch.to_nftables()).await
}

fn refused(err: NftablesError) -> Error {
    match err {
        NftablesError::NftFailed { stdout, stderr, .. } => {
            let text = if stderr.trim().is_empty() { stdout } else { stderr };
            Error::Nft(text.trim().chars().take(2000).collect())
        }
        other => Error::Nft(other.to_string()),
    }
}
