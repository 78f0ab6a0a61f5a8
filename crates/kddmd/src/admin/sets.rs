//! What the daemon is asked of one set: the commands of `kddmadm set` that are one question and its answer.

use clap::Subcommand;
use serde_json::Value as Json;

use super::freezing::{FreezeSet, show_frozen};
use super::listing::{ShowSet, show_set};
use super::protocol::Command;
use super::sure::Sure;
use crate::show::accepted;

/// A question, and how its answer is shown.
pub type Asked = (Command, fn(&Json) -> String);

/// What is asked.
#[derive(Subcommand)]
pub enum AskSet {
    /// One set.
    Show(ShowSet),
    /// Accepts that all that is lost of a set is gone: it has never existed, and can be made anew.
    AcceptLoss {
        /// Its name.
        name: String,
        /// That it is meant.
        #[command(flatten)]
        sure: Sure,
    },
    /// To freeze it, or to thaw it.
    #[command(flatten)]
    Freeze(FreezeSet),
}

impl AskSet {
    /// The question.
    ///
    /// # Errors
    /// It is not said that it is meant.
    pub fn question(self) -> Result<Asked, String> {
        Ok(match self {
            AskSet::Show(shown) => (shown.question(), show_set),
            AskSet::AcceptLoss { name, sure } => {
                let what = format!("all that is lost of set {name:?}");
                sure.check(&what, &format!("kddmadm sets accept-loss {name}"))?;
                (Command::AcceptLoss { set: name, id: None }, accepted)
            }
            AskSet::Freeze(which) => (which.question(), show_frozen),
        })
    }
}
