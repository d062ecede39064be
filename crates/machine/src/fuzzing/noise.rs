//! Changes in the numbers of a state that leave its form as it is: others are refused before anything is made of them.

use ciborium::Value;

use crate::codec;

/// The CBOR `state` with a byte of `noise` laid over each of its numbers and arrays, those within byte strings that are CBOR
/// included; where the noise is zero or over, they stay.
pub(super) fn lay(noise: &[u8], state: &[u8]) -> Option<Vec<u8>> {
    let mut value = codec::decode(state).ok()?;
    over(&mut value, &mut noise.iter().copied());
    codec::encode(&value).ok()
}

fn over(value: &mut Value, noise: &mut impl Iterator<Item = u8>) {
    match value {
        Value::Integer(number) => {
            let (byte, Ok(now)) = (noise.next().unwrap_or(0), u64::try_from(*number)) else { return };
            *number = match byte {
                0 => now,
                1..=64 => now ^ 1 << (byte - 1),
                65..=128 => u64::MAX >> (byte - 65),
                129.. => now.wrapping_add(u64::from(byte).wrapping_sub(192)),
            }
            .into();
        }
        Value::Array(items) => {
            match noise.next() {
                Some(1) => drop(items.pop()),
                Some(2) => items.extend(items.last().cloned()),
                _ => {}
            }
            items.iter_mut().for_each(|item| over(item, noise));
        }
        Value::Map(entries) => entries.iter_mut().for_each(|(_, entry)| over(entry, noise)),
        Value::Bytes(bytes) => {
            if let Ok(mut inner) = codec::decode(bytes) {
                over(&mut inner, noise);
                codec::encode(&inner).into_iter().for_each(|encoded| *bytes = encoded);
            }
        }
        _ => {}
    }
}
