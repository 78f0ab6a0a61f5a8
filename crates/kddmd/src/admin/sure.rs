//! What cannot be undone is done by those who say that they mean it.

use std::io::{BufRead, IsTerminal, Write};

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

/// Whether something is meant: by `--yes`, else by the word of whoever sits at the terminal. Who asks for JSON is no one.
pub fn is_meant(question: &str, yes: bool, json: bool) -> bool {
    let can_ask = !json && std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    yes || (can_ask && is_confirmed(question))
}

fn is_confirmed(question: &str) -> bool {
    let (mut output, mut answer) = (std::io::stderr().lock(), String::new());
    let asked = write!(output, "{question} Type yes: ").and_then(|()| output.flush());
    asked.is_ok() && std::io::stdin().lock().read_line(&mut answer).is_ok() && answer.trim() == "yes"
}
