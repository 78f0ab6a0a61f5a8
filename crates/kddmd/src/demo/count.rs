//! Words of a text, and the shared object that counts them.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::DemoError;

/// Files larger than this are left out: the demonstration is to take seconds.
const FILE_LIMIT_BYTES: u64 = 4 << 20;

/// A file with a zero byte in this many first bytes is not text.
const PROBE_BYTES: usize = 8192;

/// The words that share one object id, each with its count. Nearly always one word.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts(Vec<Count>);

/// How often a word was counted, and in which files, where that is recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Count {
    word: String,
    count: u64,
    /// A bit for each file.
    files: Vec<u64>,
}

impl Count {
    /// Records that a file is counted; false if it was.
    fn record(&mut self, file: u32) -> bool {
        let (at, bit) = ((file / 64) as usize, 1 << (file % 64));
        if self.files.len() <= at {
            self.files.resize(at + 1, 0);
        }
        let is_new = self.files[at] & bit == 0;
        self.files[at] |= bit;
        is_new
    }
}

impl Counts {
    /// Adds to the count of a word.
    pub fn add(&mut self, word: &str, count: u64) {
        self.entry(word).count += count;
    }

    /// As [`Self::add`], what a file has of the word; nothing if it was added before.
    pub fn add_of_file(&mut self, file: u32, word: &str, count: u64) {
        let entry = self.entry(word);
        if entry.record(file) {
            entry.count += count;
        }
    }

    fn entry(&mut self, word: &str) -> &mut Count {
        let at = self.0.iter().position(|known| known.word == word).unwrap_or_else(|| {
            self.0.push(Count { word: word.to_string(), ..Count::default() });
            self.0.len() - 1
        });
        &mut self.0[at]
    }

    /// The count of a word; zero if it was never added.
    pub fn of(&self, word: &str) -> u64 {
        self.0.iter().find(|known| known.word == word).map_or(0, |known| known.count)
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

/// The text files below a folder, and how many were left out. Hidden and ignored ones are not counted:
/// nobody expects them.
#[derive(Debug, Default)]
pub struct Files {
    /// In one order.
    pub paths: Vec<PathBuf>,
    /// The others.
    pub left_out: LeftOut,
}

/// How many files are not counted, by the reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Larger than 4 MiB.
    pub too_large: u64,
    /// Binary.
    pub not_text: u64,
    /// The system refused to read them.
    pub unreadable: u64,
}

impl LeftOut {
    /// A sentence, if there is something to say.
    pub fn sentence(&self) -> Option<String> {
        let all = self.too_large + self.not_text + self.unreadable;
        let limit = FILE_LIMIT_BYTES >> 20;
        let LeftOut { too_large, not_text, unreadable } = self;
        let reasons = format!("{too_large} larger than {limit} MiB, {not_text} not text, {unreadable} unreadable");
        (all > 0).then(|| format!("{all} files are left out: {reasons}"))
    }
}

/// The text files below a folder.
///
/// # Errors
/// `File` if the folder cannot be read.
pub fn text_files(dir: &Path) -> Result<Files, DemoError> {
    let unreadable = |reason: String| DemoError::File { path: dir.display().to_string(), reason };
    std::fs::read_dir(dir).map_err(|error| unreadable(error.to_string()))?;
    let mut files = Files::default();
    for entry in ignore::WalkBuilder::new(dir).build().filter_map(Result::ok) {
        if !entry.file_type().is_some_and(|kind| kind.is_file()) {
            continue;
        }
        match entry.metadata() {
            Ok(data) if data.len() > FILE_LIMIT_BYTES => files.left_out.too_large += 1,
            Err(_) => files.left_out.unreadable += 1,
            Ok(_) => match std::fs::read(entry.path()) {
                Ok(bytes) if is_text(&bytes) => files.paths.push(entry.into_path()),
                Ok(_) => files.left_out.not_text += 1,
                Err(_) => files.left_out.unreadable += 1,
            },
        }
    }
    files.paths.sort();
    Ok(files)
}

/// Writes a list of files for a counting process: how many, then each name behind its length, because
/// a name may contain anything but zero.
///
/// # Errors
/// The stream's.
pub fn write_list(mut output: impl Write, files: &[PathBuf]) -> std::io::Result<()> {
    let mut list = (files.len() as u32).to_le_bytes().to_vec();
    for file in files {
        let name = file.as_os_str().as_bytes();
        list.extend_from_slice(&(name.len() as u32).to_le_bytes());
        list.extend_from_slice(name);
    }
    output.write_all(&list)
}

/// Reads what [`write_list`] wrote.
///
/// # Errors
/// The stream's.
pub fn read_list(mut input: impl Read) -> std::io::Result<Vec<PathBuf>> {
    let count = read_number(&mut input)?;
    let mut files = Vec::new();
    for _ in 0..count {
        let length = read_number(&mut input)?;
        let mut name = Vec::new();
        input.by_ref().take(length.into()).read_to_end(&mut name)?;
        files.push(PathBuf::from(OsString::from_vec(name)));
    }
    Ok(files)
}

fn read_number(mut input: impl Read) -> std::io::Result<u32> {
    let mut bytes = [0; 4];
    input.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn is_text(bytes: &[u8]) -> bool {
    !bytes.iter().take(PROBE_BYTES).any(|byte| *byte == 0)
}

/// The text of a file.
///
/// # Errors
/// `File` if it cannot be read or is binary.
pub fn read_text(path: &Path) -> Result<String, DemoError> {
    let bad = |reason: &str| DemoError::File { path: path.display().to_string(), reason: reason.into() };
    let bytes = std::fs::read(path).map_err(|error| bad(&error.to_string()))?;
    if !is_text(&bytes) {
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
    fn a_list_carries_any_name() {
        let names = ["two\nlines".into(), OsString::from_vec(b"\xff\xfe".to_vec()), "".into()];
        let files = names.map(PathBuf::from);
        let mut bytes = Vec::new();
        write_list(&mut bytes, &files).expect("memory takes it");
        assert_eq!(read_list(&bytes[..]).expect("it is whole"), files);
        assert!(read_list(&bytes[..2]).is_err());
    }

    #[test]
    fn words_with_one_object_are_kept_apart() {
        let mut counts = Counts::default();
        counts.add("one", 1);
        counts.add("two", 2);
        counts.add("one", 3);
        assert_eq!((counts.of("one"), counts.of("two"), counts.of("three")), (4, 2, 0));
    }

    #[test]
    fn what_a_file_has_of_a_word_is_added_once() {
        let mut counts = Counts::default();
        for file in [0, 63, 64, 200, 64, 0] {
            counts.add_of_file(file, "one", 10);
        }
        counts.add_of_file(0, "two", 1);
        assert_eq!((counts.of("one"), counts.of("two")), (40, 1));
    }
}
