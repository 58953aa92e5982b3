//! Whole nftables tables, applied atomically through `nft -j -f -`.
//!
//! Knows nothing of what is in a table. Invariant: a caller owns its table alone; replacing it is
//! one transaction, and deleting it removes everything the caller ever put into the kernel.

use crate::{Error, Result};
use nftables::batch::Batch;
use nftables::helper::{self, NftablesError};
use nftables::schema::{NfCmd, NfListObject, Nftables, Table};
use nftables::types::NfFamily;

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

/// Applies commands in nft's JSON form as one transaction, for what the typed form cannot say.
pub async fn apply_json(ruleset: &str) -> Result<()> {
    let (program, args) = (helper::DEFAULT_NFT, helper::DEFAULT_ARGS);
    let applied = helper::apply_ruleset_raw_async(ruleset, program, args).await;
    applied.map(drop).map_err(refused)
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
