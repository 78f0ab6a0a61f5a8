//! Proof of death: a process of its own on each host, the guardian, watches those of the nodes there
//! through the kernel, and tells the members of a cluster when one has ended. This is what a node and
//! its guardian say to each other, and what a guardian says to a member.
//!
//! A node draws a secret for each of its lives and gives it to its guardian alone. What the members know
//! of it is a hash, which is the number under which the node was let in: whoever knows that number, a
//! stranger or another member, cannot say in its place that the node is dead. The secret itself is said
//! once, over the network, when the life that it belongs to is over. Against somebody who reads the
//! traffic between nodes and changes it nothing here protects: there is no encryption yet.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{ConfigurationError, Error};
use crate::runtime::control::{Answer, Question};
use crate::transport::Address;
use crate::transport::greeting::{GreetError, Hello, PROTOCOL, Purpose, call};

/// Version of what a node and its guardian say to each other.
pub const VERSION: u16 = 1;

/// Longest word of a node to its guardian: the addresses of the members of the largest cluster.
pub const MOST_WORD_BYTES: u32 = 288 << 10;

/// Members whose addresses a guardian keeps for one node: those of the largest cluster.
pub const MOST_MEMBERS: usize = kddm_view::MEMBERS;

/// How long either side may take to say the next word of an exchange.
pub const WORD_LIMIT: Duration = Duration::from_secs(2);

/// What only a node and its guardian know.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Secret([u8; 32]);

impl Secret {
    /// A new one.
    ///
    /// # Errors
    /// The system has no random numbers to give.
    pub(crate) fn draw() -> Result<Secret, Error> {
        let mut bytes = [0; 32];
        let mut filled = 0;
        while filled < bytes.len() {
            let drawn = rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty());
            match drawn {
                Ok(count) => filled += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    let reason = error.to_string();
                    return Err(ConfigurationError::System { what: "random numbers", reason }.into());
                }
            }
        }
        Ok(Secret(bytes))
    }

    /// What the members know of it: never zero, which names nobody. To find a secret for a number takes
    /// 2^64 attempts, and the life that it could end is over long before.
    pub(crate) fn hash(&self) -> u64 {
        let digest = Sha256::new().chain_update(b"kddm life").chain_update(self.0).finalize();
        let first = digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte));
        first.max(1)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// One life of a node, as its guardian knows it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Life {
    /// Session id.
    pub session: u16,
    /// Cluster id.
    pub cluster: u64,
    /// The node.
    pub node: u16,
    /// Which of its lives.
    pub incarnation: u32,
    /// What proves that its guardian speaks.
    pub secret: Secret,
}

impl Life {
    /// Whether it is the same node's, be it another life.
    pub fn is_of_the_node_of(&self, other: &Life) -> bool {
        (self.session, self.cluster, self.node) == (other.session, other.cluster, other.node)
    }
}

/// What a node says to its guardian. Each word is answered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Said {
    /// The process at the other end of this socket is that life.
    Register {
        /// [`VERSION`].
        version: u16,
        /// Who.
        life: Life,
        /// Whom to tell.
        members: Vec<String>,
    },
    /// Whom to tell from now on.
    Members(Vec<String>),
    /// It has left its cluster: nobody is to be told.
    Left,
}

/// What a guardian answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Heard {
    /// Done.
    Yes,
    /// Not done, and why.
    No(String),
}

/// What a member said to the news that a life is over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// It knows now.
    Known,
    /// It knows no such life, and will not: somebody was faster.
    NoMember,
    /// It has not heard of that life yet: it is to be told again.
    NotYet,
    /// It does not believe it, and why.
    Refused(String),
}

/// Tells a member that the process of a life has ended.
///
/// # Errors
/// The member was not reached, or did not answer within the limit.
pub fn tell_of_death(member: &Address, life: &Life, limit: Duration) -> Result<Told, GreetError> {
    let (session, cluster, purpose) = (life.session, life.cluster, Purpose::Control);
    let hello = Hello { protocol: PROTOCOL, session, cluster, node: 0, incarnation: 0, nonce: 0, purpose };
    let question = Question::Died { node: life.node, incarnation: life.incarnation, secret: life.secret };
    match call(member, &hello, &question, limit) {
        Ok(Answer::Done) => Ok(Told::Known),
        Ok(Answer::NotAMember) => Ok(Told::NoMember),
        Ok(Answer::NotYet) => Ok(Told::NotYet),
        Ok(Answer::No(reason)) | Err(GreetError::Refused(reason)) => Ok(Told::Refused(reason)),
        Ok(_) => Ok(Told::Refused("it gave an answer to another question".into())),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_secret_is_always_the_same_and_tells_nothing_of_it() {
        assert_eq!(Secret([0; 32]).hash(), Secret([0; 32]).hash());
        assert_ne!(Secret([0; 32]).hash(), Secret([1; 32]).hash());
        let (one, other) = (Secret::draw().expect("random numbers"), Secret::draw().expect("random numbers"));
        assert_ne!(one, other);
        assert_ne!(one.hash(), 0);
        assert_eq!(format!("{one:?}"), "Secret", "it is in no log");
    }

    #[test]
    fn the_words_of_the_largest_cluster_fit() {
        let members = vec!["x".repeat(kddm_view::ADDRESS_BYTES); MOST_MEMBERS];
        let life = Life {
            session: u16::MAX,
            cluster: u64::MAX,
            node: u16::MAX,
            incarnation: u32::MAX,
            secret: Secret([255; 32]),
        };
        let word = Said::Register { version: VERSION, life, members };
        let bytes = crate::transport::greeting::bytes_of(&word).expect("it encodes");
        assert!(bytes.len() < MOST_WORD_BYTES as usize, "{} bytes", bytes.len());
    }
}
