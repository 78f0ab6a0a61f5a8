//! As much of protocol buffers as etcd's requests and answers need.

use crate::Failure;

/// What a field holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Appends a number.
pub fn number(out: &mut Vec<u8>, field: u8, value: u64) {
    out.push(field << 3);
    varint(out, value);
}

/// Appends bytes, a text or another message.
pub fn bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Result<u64, Failure> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or("a number without an end")?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number of more than 64 bits".into())
}

/// All fields of a message.
///
/// # Errors
/// It is none.
pub fn fields(mut message: &[u8]) -> Result<Vec<(u64, Field<'_>)>, Failure> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let tag = take_varint(&mut message)?;
        let length = match tag & 7 {
            0 => {
                fields.push((tag >> 3, Field::Number(take_varint(&mut message)?)));
                continue;
            }
            1 => 8,
            2 => take_varint(&mut message)?,
            5 => 4,
            kind => return Err(format!("a field of kind {kind}").into()),
        };
        let length = usize::try_from(length).ok().filter(|length| *length <= message.len());
        let (value, rest) = message.split_at(length.ok_or("a field without an end")?);
        message = rest;
        fields.push((tag >> 3, Field::Bytes(value)));
    }
    Ok(fields)
}

/// The last field of that number, if it is bytes.
pub fn bytes_in<'a>(fields: &[(u64, Field<'a>)], field: u64) -> Option<&'a [u8]> {
    fields.iter().rev().find_map(|(number, value)| match value {
        Field::Bytes(value) if *number == field => Some(*value),
        _ => None,
    })
}

/// The number in that field, which is zero if it is not there.
pub fn number_in(fields: &[(u64, Field<'_>)], field: u64) -> u64 {
    let number = fields.iter().rev().find_map(|(number, value)| match value {
        Field::Number(value) if *number == field => Some(*value),
        _ => None,
    });
    number.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut message = Vec::new();
        number(&mut message, 3, u64::MAX);
        bytes(&mut message, 5, &[7; 300]);
        let found = fields(&message).unwrap();
        assert_eq!(number_in(&found, 3), u64::MAX);
        assert_eq!(bytes_in(&found, 5), Some(&[7; 300][..]));
        assert_eq!((number_in(&found, 4), bytes_in(&found, 3)), (0, None));
    }

    #[test]
    fn nonsense_is_an_error_and_never_a_panic() {
        assert!(fields(&[0x2a, 200, 1]).is_err(), "shorter than it says");
        assert!(fields(&[0xff; 11]).is_err(), "a number without an end");
        assert!(fields(&[0x2b]).is_err(), "groups are not known");
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..100_000 {
            let message: Vec<u8> = (0..random.usize(..20)).map(|_| random.u8(..)).collect();
            let _no_panic = fields(&message);
        }
    }
}
