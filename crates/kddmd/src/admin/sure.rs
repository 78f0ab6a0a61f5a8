//! What cannot be undone is done by those who say that they mean it.

use clap::Args;

/// The word.
#[derive(Args)]
pub struct Sure {
    /// Do it. It cannot be undone: copies that come back with a node are dropped.
    #[arg(long)]
    yes: bool,
}

impl Sure {
    /// Without the word nobody is asked.
    ///
    /// # Errors
    /// What would be given up, and how to say that it is meant.
    pub fn check(&self, what: &str, again: &str) -> Result<(), String> {
        if self.yes {
            return Ok(());
        }
        Err(format!(
            "this gives up {what}, also if a node comes back that has it, and cannot be undone; nothing was changed. \
             `kddmadm sets` and `kddmadm cluster status` say what is lost and which nodes are missing. If none of them \
             comes back: {again} --yes"
        ))
    }
}
