//! What is kept of an object beside its bytes, and the checksums over both.

use kddm::linker::Stamp;

/// The stamp that was written, whether the object is there or was removed, and two checksums: one of the bytes, and one of all
/// else, so that a write is judged without a look at what may be megabytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Record {
    pub(crate) stamp: Stamp,
    pub(crate) is_there: bool,
    pub(crate) sum_of_bytes: u32,
}

impl Record {
    pub(crate) fn of(stamp: Stamp, bytes: Option<&[u8]>) -> Record {
        Record { stamp, is_there: bytes.is_some(), sum_of_bytes: crc32fast::hash(bytes.unwrap_or_default()) }
    }

    /// The checksum of the record as that of this object.
    pub(crate) fn sum(&self, object: u64) -> u32 {
        let Stamp { term, tenure, version } = self.stamp;
        let mut sum = crc32fast::Hasher::new();
        for number in [object, term, tenure, version, u64::from(self.is_there), u64::from(self.sum_of_bytes)] {
            sum.update(&number.to_le_bytes());
        }
        sum.finalize()
    }

    /// Whether it was written for these bytes.
    pub(crate) fn is_of(&self, bytes: Option<&[u8]>) -> bool {
        *self == Record::of(self.stamp, bytes)
    }
}

/// What is wrong with a record.
pub(crate) const OTHER_SUM: &str = "its record has another checksum than it was written with";
/// What is wrong with bytes.
pub(crate) const OTHER_SUM_OF_BYTES: &str = "its bytes have another checksum than they were written with";
