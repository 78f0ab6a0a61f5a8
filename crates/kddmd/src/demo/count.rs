//! Words of a text, and the shared object that counts them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::DemoError;

/// Files larger than this are left out: the demonstration is to take seconds.
const FILE_LIMIT_BYTES: u64 = 4 << 20;

/// A file with a zero byte in this many first bytes is not text.
const PROBE_BYTES: usize = 8192;

/// The words that share one object id, each with its count. Nearly always one word.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts(pub Vec<(String, u64)>);

impl Counts {
    /// Adds to the count of a word.
    pub fn add(&mut self, word: &str, count: u64) {
        match self.0.iter_mut().find(|(known, _)| known == word) {
            Some((_, total)) => *total += count,
            None => self.0.push((word.to_string(), count)),
        }
    }

    /// The count of a word; zero if it was never added.
    pub fn of(&self, word: &str) -> u64 {
        self.0.iter().find(|(known, _)| known == word).map_or(0, |(_, count)| *count)
    }
}

/// The object that counts a word (FNV-1a).
pub fn object_of(word: &str) -> u64 {
    word.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Counts the words of a text: runs of letters and digits, in lower case.
pub fn count_words(text: &str, counts: &mut HashMap<String, u64>) {
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        let word = word.to_lowercase();
        match counts.get_mut(&word) {
            Some(count) => *count += 1,
            None => {
                counts.insert(word, 1);
            }
        }
    }
}

/// The text files below a folder, in one order. Hidden, ignored and binary files are left out.
///
/// # Errors
/// `File` if the folder cannot be read, `NoFiles` if nothing is left.
pub fn text_files(dir: &Path) -> Result<Vec<PathBuf>, DemoError> {
    let unreadable = |reason: String| DemoError::File { path: dir.display().to_string(), reason };
    std::fs::read_dir(dir).map_err(|error| unreadable(error.to_string()))?;
    let mut files: Vec<PathBuf> = ignore::WalkBuilder::new(dir)
        .build()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_some_and(|kind| kind.is_file()))
        .filter(|entry| entry.metadata().is_ok_and(|data| data.len() <= FILE_LIMIT_BYTES))
        .map(ignore::DirEntry::into_path)
        .filter(|path| read_text(path).is_ok())
        .collect();
    files.sort();
    if files.is_empty() { Err(DemoError::NoFiles(dir.display().to_string())) } else { Ok(files) }
}

/// The text of a file.
///
/// # Errors
/// `File` if it cannot be read or is binary.
pub fn read_text(path: &Path) -> Result<String, DemoError> {
    let bad = |reason: &str| DemoError::File { path: path.display().to_string(), reason: reason.into() };
    let bytes = std::fs::read(path).map_err(|error| bad(&error.to_string()))?;
    if bytes.iter().take(PROBE_BYTES).any(|byte| *byte == 0) {
        return Err(bad("is not text"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_runs_of_letters_and_digits() {
        let mut counts = HashMap::new();
        count_words("Grab it, put it; GRAB-2!", &mut counts);
        assert_eq!(counts.get("grab"), Some(&2));
        assert_eq!(counts.get("it"), Some(&2));
        assert_eq!(counts.get("2"), Some(&1));
        assert_eq!(counts.len(), 4);
    }

    #[test]
    fn words_with_one_object_are_kept_apart() {
        let mut counts = Counts::default();
        counts.add("one", 1);
        counts.add("two", 2);
        counts.add("one", 3);
        assert_eq!((counts.of("one"), counts.of("two"), counts.of("three")), (4, 2, 0));
    }
}
