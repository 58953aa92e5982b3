//! What a story asks of a machine, however that is made.

use anyhow::Result;

use super::machine::Machine;

/// A booted machine.
pub(crate) trait Guest {
    /// Runs a line of shell in it and returns what that printed.
    ///
    /// # Errors
    /// Carries what a failing line wrote to standard error.
    fn shell(&self, line: &str) -> Result<String>;
}

impl Guest for Machine {
    fn shell(&self, line: &str) -> Result<String> {
        Machine::shell(self, line)
    }
}
