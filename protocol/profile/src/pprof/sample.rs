//! One sample of a profile, taken apart without memory of its own: there
//! are millions of them.

use prost::Message as _;

use super::fields::varint;
use super::message::Label;
use super::read::ReadError;

const LOCATION: u64 = 1;
const VALUE: u64 = 2;
const LABEL: u64 = 3;

/// Parts of a sample; used again for the next.
#[derive(Debug, Default)]
pub(super) struct Sample {
    pub(super) location: Vec<u64>,
    pub(super) value: Vec<i64>,
    pub(super) label: Vec<Label>,
}

impl Sample {
    /// Takes the parts of this message.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<(), ReadError> {
        self.location.clear();
        self.value.clear();
        self.label.clear();
        while !bytes.is_empty() {
            let key = varint(&mut bytes)?;
            let field = match key & 7 {
                0 => {
                    let number = varint(&mut bytes)?;
                    match key >> 3 {
                        LOCATION => self.location.push(number),
                        VALUE => self.value.push(number.cast_signed()),
                        _ => {}
                    }
                    continue;
                }
                1 => split(&mut bytes, 8)?,
                5 => split(&mut bytes, 4)?,
                2 => {
                    let length = varint(&mut bytes)?;
                    split(&mut bytes, length)?
                }
                _ => return Err(ReadError::Damaged("a bad wire type")),
            };
            match (key >> 3, key & 7) {
                (LOCATION, 2) => {
                    numbers(field, |number| self.location.push(number))?;
                }
                (VALUE, 2) => numbers(field, |number| {
                    self.value.push(number.cast_signed());
                })?,
                (LABEL, 2) => self.label.push(Label::decode(field)?),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Takes so many bytes from the front.
fn split<'a>(bytes: &mut &'a [u8], length: u64) -> Result<&'a [u8], ReadError> {
    let parts = usize::try_from(length)
        .ok()
        .and_then(|length| bytes.split_at_checked(length));
    let (field, rest) =
        parts.ok_or(ReadError::Damaged("it ends within a field"))?;
    *bytes = rest;
    Ok(field)
}

/// Packed numbers.
fn numbers(
    mut bytes: &[u8],
    mut each: impl FnMut(u64),
) -> Result<(), ReadError> {
    while let Some(byte) = bytes.first() {
        // Most are short.
        if byte & 0x80 == 0 {
            each(u64::from(*byte));
            bytes = &bytes[1..];
        } else {
            each(varint(&mut bytes)?);
        }
    }
    Ok(())
}
