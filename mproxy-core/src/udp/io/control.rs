//! Control messages as Winsock lays them out: a header of a length, a level and a type, then the payload,
//! each from a multiple of a machine word on (`WSACMSGHDR`). None of this needs the system, so it is tested
//! on all of them.

/// The alignment of each header, and its length.
const WORD: usize = size_of::<usize>();
const HEADER: usize = WORD + 2 * size_of::<i32>();

/// Control messages, with room for `N` bytes of them.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Control<const N: usize>(pub(crate) [u8; N]);

/// One control message with a number (`WSA_CMSG_SPACE`).
pub(crate) type Number = Control<{ (HEADER + size_of::<u32>()).next_multiple_of(WORD) }>;

impl Number {
    pub(crate) fn new(level: i32, kind: i32, number: u32) -> Self {
        let mut message = Self([0; size_of::<Self>()]);
        let mut put = |at: usize, part: &[u8]| message.0[at..at + part.len()].copy_from_slice(part);
        put(0, &(HEADER + size_of::<u32>()).to_ne_bytes());
        put(WORD, &level.to_ne_bytes());
        put(WORD + size_of::<i32>(), &kind.to_ne_bytes());
        put(HEADER, &number.to_ne_bytes());
        message
    }
}

/// The number in the control message of this level and type; 0 without one, and none if the control messages cannot be
/// read.
pub(crate) fn number(control: &[u8], level: i32, kind: i32) -> Option<u32> {
    match payload(control, level, kind)? {
        [] => Some(0),
        payload => Some(u32::from_ne_bytes(*payload.first_chunk()?)),
    }
}

/// The payload of the control message of this level and type; empty without one, and none if the control messages cannot
/// be read.
pub(crate) fn payload(control: &[u8], level: i32, kind: i32) -> Option<&[u8]> {
    let mut rest = control;
    while !rest.is_empty() {
        let len = usize::from_ne_bytes(*rest.first_chunk()?);
        let of = (i32::from_ne_bytes(*rest[WORD..].first_chunk()?), {
            let rest = rest.get(WORD + size_of::<i32>()..)?;
            i32::from_ne_bytes(*rest.first_chunk()?)
        });
        let payload = rest.get(HEADER..len)?;
        if of == (level, kind) {
            return Some(payload);
        }
        rest = rest.get(len.next_multiple_of(WORD)..).unwrap_or_default();
    }
    Some(&[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_as_it_was_written() {
        let one = Number::new(17, 3, 1316);
        assert_eq!(number(&one.0, 17, 3), Some(1316));
        assert_eq!(
            (number(&one.0, 17, 2), number(&one.0, 0, 3), number(&[], 17, 3)),
            (Some(0), Some(0), Some(0))
        );
        assert_eq!(align_of_val(&one) % align_of::<usize>(), 0);
    }

    #[cfg(target_pointer_width = "64")]
    #[test]
    fn it_is_laid_out_as_the_system_has_it() {
        let mut expected = [0; 24];
        for (at, byte) in [(0, 20), (8, 17), (12, 2), (16, 0x24), (17, 0x05)] {
            expected[at] = byte;
        }
        let one = Number::new(17, 2, 0x0524);
        assert_eq!(one.0.map(u8::to_le), expected);
    }

    #[test]
    fn it_is_found_behind_others() {
        // One of an odd length: the next one begins at the next word.
        let mut both = Number::new(0, 19, 7).0.to_vec();
        both[..WORD].copy_from_slice(&(HEADER + 1).to_ne_bytes());
        both.truncate((HEADER + 1).next_multiple_of(WORD));
        both.extend(Number::new(17, 3, 1000).0);
        assert_eq!(number(&both, 17, 3), Some(1000));
        // The last one may end without what would fill its last word.
        both.truncate(both.len() / WORD * WORD);
        assert_eq!(number(&both[..HEADER + WORD + HEADER + 4], 17, 3), Some(1000));
    }

    #[test]
    fn what_cannot_be_read_is_no_number() {
        let one = Number::new(17, 3, 1316).0;
        for len in 1..HEADER + 4 {
            assert_eq!(number(&one[..len], 17, 3), None, "{len} bytes");
        }
        for len in [0, 1, HEADER - 1, HEADER + 3, one.len() + 1, usize::MAX] {
            let mut wrong = one;
            wrong[..WORD].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(number(&wrong, 17, 3), None, "a length of {len}");
        }
    }
}
