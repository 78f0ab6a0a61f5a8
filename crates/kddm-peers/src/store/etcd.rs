//! A client of etcd, by its own calls over gRPC.

use crate::Failure;

use super::grpc::Grpc;
use super::protobuf::{bytes, bytes_in, fields, number, number_in};
use super::{Store, bytes_of, number_of};

const RANGE: &str = "/etcdserverpb.KV/Range";
const PUT: &str = "/etcdserverpb.KV/Put";
const TXN: &str = "/etcdserverpb.KV/Txn";
const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const LOCK: &str = "/v3lockpb.Lock/Lock";
const UNLOCK: &str = "/v3lockpb.Lock/Unlock";
const STATUS: &str = "/etcdserverpb.Maintenance/Status";

/// The lease of locks: longer than any run.
const LEASE_S: u64 = 3600;

/// What a comparison looks at: the revision of the last change.
const MOD_REVISION: u64 = 2;

/// One connection to one member.
pub struct Etcd {
    grpc: Grpc,
    /// The counter as it was seen last, and the revision of that.
    counter: (u64, u64),
    lease: Option<u64>,
    held: Option<Vec<u8>>,
}

impl Etcd {
    /// # Errors
    /// Nobody listens there.
    pub fn connect(address: &str) -> Result<Etcd, Failure> {
        Ok(Etcd { grpc: Grpc::connect(address)?, counter: (0, 0), lease: None, held: None })
    }

    /// Whether this member leads.
    ///
    /// # Errors
    /// It does not answer.
    pub fn leads(&mut self) -> Result<bool, Failure> {
        let answer = self.grpc.call(STATUS, &[])?;
        let answer = fields(&answer)?;
        let header = fields(bytes_in(&answer, 1).ok_or("a status without a header")?)?;
        Ok(number_in(&answer, 4) == number_in(&header, 2))
    }

    /// The value of a key and the revision of its last change, if it exists.
    fn range(&mut self, key: &[u8]) -> Result<Option<(Vec<u8>, u64)>, Failure> {
        let mut request = Vec::new();
        bytes(&mut request, 1, key);
        found(&self.grpc.call(RANGE, &request)?)
    }
}

/// The first pair in the answer to a range.
fn found(range: &[u8]) -> Result<Option<(Vec<u8>, u64)>, Failure> {
    let range = fields(range)?;
    let Some(pair) = bytes_in(&range, 2) else { return Ok(None) };
    let pair = fields(pair)?;
    Ok(Some((bytes_in(&pair, 5).unwrap_or_default().to_vec(), number_in(&pair, 3))))
}

/// "If nobody has changed the counter since that revision, let it be this; otherwise, what is it?"
fn change_counter(revision: u64, count: u64) -> Vec<u8> {
    const COUNTER: &[u8] = b"counter";
    let (mut compare, mut put, mut range) = (Vec::new(), Vec::new(), Vec::new());
    number(&mut compare, 2, MOD_REVISION);
    bytes(&mut compare, 3, COUNTER);
    number(&mut compare, 6, revision);
    bytes(&mut put, 1, COUNTER);
    bytes(&mut put, 2, &bytes_of(count));
    bytes(&mut range, 1, COUNTER);
    let (mut success, mut failure, mut request) = (Vec::new(), Vec::new(), Vec::new());
    bytes(&mut success, 2, &put);
    bytes(&mut failure, 1, &range);
    bytes(&mut request, 1, &compare);
    bytes(&mut request, 2, &success);
    bytes(&mut request, 3, &failure);
    request
}

impl Store for Etcd {
    fn read(&mut self, key: u64) -> Result<u64, Failure> {
        let found = self.range(key.to_string().as_bytes())?;
        let (value, _) = found.ok_or_else(|| format!("key {key} does not exist"))?;
        number_of(&value)
    }

    fn write(&mut self, key: u64, value: u64) -> Result<(), Failure> {
        let mut request = Vec::new();
        bytes(&mut request, 1, key.to_string().as_bytes());
        bytes(&mut request, 2, &bytes_of(value));
        self.grpc.call(PUT, &request).map(|_| ())
    }

    fn increment(&mut self) -> Result<(), Failure> {
        loop {
            let (count, revision) = self.counter;
            let answer = self.grpc.call(TXN, &change_counter(revision, count + 1))?;
            let answer = fields(&answer)?;
            let header = fields(bytes_in(&answer, 1).ok_or("an answer without a header")?)?;
            if number_in(&answer, 2) == 1 {
                self.counter = (count + 1, number_in(&header, 3));
                return Ok(());
            }
            let response = fields(bytes_in(&answer, 3).ok_or("a failure without what it found")?)?;
            let (value, revision) = found(bytes_in(&response, 1).unwrap_or_default())?.ok_or("no counter")?;
            self.counter = (number_of(&value)?, revision);
        }
    }

    fn count(&mut self) -> Result<u64, Failure> {
        self.range(b"counter")?.map_or(Ok(0), |(value, _)| number_of(&value))
    }

    fn lock(&mut self) -> Result<(), Failure> {
        let lease = match self.lease {
            Some(lease) => lease,
            None => {
                let mut request = Vec::new();
                number(&mut request, 1, LEASE_S);
                let answer = self.grpc.call(GRANT, &request)?;
                *self.lease.insert(number_in(&fields(&answer)?, 2))
            }
        };
        let mut request = Vec::new();
        bytes(&mut request, 1, b"lock");
        number(&mut request, 2, lease);
        let answer = self.grpc.call(LOCK, &request)?;
        self.held = bytes_in(&fields(&answer)?, 2).map(<[u8]>::to_vec);
        Ok(())
    }

    fn unlock(&mut self) -> Result<(), Failure> {
        let mut request = Vec::new();
        bytes(&mut request, 1, &self.held.take().ok_or("the lock was not held")?);
        self.grpc.call(UNLOCK, &request).map(|_| ())
    }
}
