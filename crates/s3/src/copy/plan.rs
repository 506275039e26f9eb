//! Plans whether an object is sent whole or in parts, the size of the parts, and whether they are buffered.

use std::ops::Range;

use bytesize::ByteSize;

use crate::store::Profile;

const MIB: u64 = 1 << 20;
/// Up to this size an object goes in one request: the first GET returns all of it.
pub const WHOLE_UP_TO: u64 = 16 * MIB;
/// Small enough that several fit in any sensible budget, large enough that the cost of a request is negligible.
pub const PART_AT_LEAST: u64 = 16 * MIB;
/// A part is buffered only if at least this many fit into the memory.
const HELD_AT_MOST: u64 = 4;

/// How an object is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    Whole,
    Parts(Parts),
}

/// Parts of one size, the last one shorter: every store accepts that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    size_bytes: u64,
    part_bytes: u64,
    way: PartMode,
}

/// How a part passes through memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PartMode {
    /// Read into memory, then sent: its hash is sent with it.
    Buffered,
    /// Sent while it is read, because it would take too much memory. Its hash is compared with the store's answer.
    Streamed,
}

/// The limits that all targets of an object share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub max_parts: u32,
    /// The limit of one request, for a whole object or a part.
    pub max_put_bytes: u64,
    /// The smallest size of a part that is not the last.
    pub min_part_bytes: u64,
}

/// Why the object cannot be sent in parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PlanError {
    #[error("an object of {object} is sent in one piece, but workers.memory is {memory}; set it to at least {object}")]
    TooLittleMemory { object: ByteSize, memory: ByteSize },
    #[error(
        "no size of parts suits all targets of an object of {object}: it would need parts of {part}, and one of them \
         takes {most} in a request"
    )]
    NoCommonSize { object: ByteSize, part: ByteSize, most: ByteSize },
}

impl Limits {
    /// Returns the strictest of all limits.
    pub(super) fn of<'p>(profiles: impl Iterator<Item = &'p Profile>) -> Self {
        let none = Self { max_parts: u32::MAX, max_put_bytes: u64::MAX, min_part_bytes: 0 };
        profiles.fold(none, |all, one| Self {
            max_parts: all.max_parts.min(one.max_parts),
            max_put_bytes: all.max_put_bytes.min(one.max_put_bytes),
            min_part_bytes: all.min_part_bytes.max(one.min_part_bytes),
        })
    }

    /// Returns whether all targets accept parts of this size.
    fn suits(self, size_bytes: u64, part_bytes: u64) -> bool {
        (self.min_part_bytes..=self.max_put_bytes).contains(&part_bytes)
            && size_bytes.div_ceil(part_bytes.max(1)) <= u64::from(self.max_parts)
    }

    /// Returns one size for all parts but the last, in whole MiB if the limits allow it.
    fn part_bytes(self, size_bytes: u64) -> u64 {
        let fewest = size_bytes.div_ceil(u64::from(self.max_parts.max(1)));
        let round = fewest.next_multiple_of(MIB);
        let fewest = if round > self.max_put_bytes { fewest } else { round };
        fewest.max(PART_AT_LEAST.min(self.max_put_bytes)).max(self.min_part_bytes)
    }
}

/// Returns whether an object of this size goes in one request.
pub(super) fn is_whole(size_bytes: u64, limits: Limits) -> bool {
    size_bytes <= WHOLE_UP_TO.min(limits.max_put_bytes)
}

/// Plans an object of `size_bytes`. `begun`: the part size of an open upload, which is kept if it fits.
pub(super) fn plan(size_bytes: u64, limits: Limits, memory_bytes: u64, begun: Option<u64>) -> Result<Plan, PlanError> {
    let object = ByteSize(size_bytes);
    if is_whole(size_bytes, limits) {
        let memory = ByteSize(memory_bytes);
        let fits = size_bytes <= memory_bytes;
        return if fits { Ok(Plan::Whole) } else { Err(PlanError::TooLittleMemory { object, memory }) };
    }
    let begun = begun.filter(|part_bytes| limits.suits(size_bytes, *part_bytes));
    let part_bytes = begun.unwrap_or_else(|| limits.part_bytes(size_bytes));
    if part_bytes > limits.max_put_bytes {
        let (part, most) = (ByteSize(part_bytes), ByteSize(limits.max_put_bytes));
        return Err(PlanError::NoCommonSize { object, part, most });
    }
    let way = PartMode::of(part_bytes, memory_bytes);
    Ok(Plan::Parts(Parts { size_bytes, part_bytes, way }))
}

impl PartMode {
    /// Returns the mode of a part of this size.
    pub(super) fn of(part_bytes: u64, memory_bytes: u64) -> Self {
        if part_bytes > memory_bytes / HELD_AT_MOST { Self::Streamed } else { Self::Buffered }
    }
}

impl Parts {
    pub(super) fn size_bytes(self) -> u64 {
        self.size_bytes
    }

    /// Returns the size of each part but the last.
    pub(super) fn part_bytes(self) -> u64 {
        self.part_bytes
    }

    pub(super) fn mode(self) -> PartMode {
        self.way
    }

    /// Returns the number of parts, at least one.
    pub(super) fn count(self) -> u32 {
        // Cannot fail: no store accepts that many.
        u32::try_from(self.size_bytes.div_ceil(self.part_bytes)).expect("a number of parts")
    }

    /// Returns the byte range of the part with this number.
    pub(super) fn range(self, number: u32) -> Range<u64> {
        let start = u64::from(number - 1) * self.part_bytes;
        start..(start + self.part_bytes).min(self.size_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENOUGH: u64 = u64::MAX;

    const USUAL: Limits = Limits { max_parts: 10_000, max_put_bytes: 5 << 30, min_part_bytes: 5 * MIB };

    fn at_most(max_parts: u32) -> Limits {
        Limits { max_parts, max_put_bytes: u64::MAX, ..USUAL }
    }

    fn ranges(size: u64, max_parts: u32) -> Vec<Range<u64>> {
        ranges_of(size, at_most(max_parts))
    }

    fn ranges_of(size: u64, limits: Limits) -> Vec<Range<u64>> {
        all(parts_of(size, limits, ENOUGH, None))
    }

    fn parts_of(size: u64, limits: Limits, memory_bytes: u64, begun: Option<u64>) -> Parts {
        match plan(size, limits, memory_bytes, begun).unwrap() {
            Plan::Whole => panic!("{size} in one request"),
            Plan::Parts(parts) => parts,
        }
    }

    fn all(parts: Parts) -> Vec<Range<u64>> {
        (1..=parts.count()).map(|number| parts.range(number)).collect()
    }

    #[test]
    fn up_to_16_mib_an_object_is_one_request() {
        for size in [0, 1, WHOLE_UP_TO] {
            assert_eq!(plan(size, USUAL, ENOUGH, None), Ok(Plan::Whole));
        }
        assert_eq!(ranges(WHOLE_UP_TO + 1, 10_000), [0..WHOLE_UP_TO, WHOLE_UP_TO..WHOLE_UP_TO + 1]);
    }

    #[test]
    fn a_store_that_takes_a_thousand_parts_gets_larger_ones() {
        let size = 100 << 30;
        assert_eq!(ranges(size, 10_000)[0].end, 16 * MIB);
        assert_eq!(ranges(size, 1_000)[0].end, 103 * MIB);
    }

    #[test]
    fn a_part_larger_than_a_quarter_of_the_memory_is_not_held() {
        let way = |memory_bytes| parts_of(100 << 30, at_most(1_000), memory_bytes, None).mode();
        assert_eq!((way(412 * MIB), way(412 * MIB - 1)), (PartMode::Buffered, PartMode::Streamed));
    }

    #[test]
    fn an_object_in_one_piece_that_does_not_fit_is_refused_and_told_what_it_needs() {
        assert_eq!(
            plan(5 * MIB, USUAL, 4 * MIB, None).unwrap_err().to_string(),
            "an object of 5.0 MiB is sent in one piece, but workers.memory is 4.0 MiB; set it to at least 5.0 MiB"
        );
    }

    #[test]
    fn what_was_begun_is_gone_on_with_in_parts_of_the_same_size_where_that_suits() {
        let begun = |part_bytes| parts_of(10 << 30, at_most(1_000), ENOUGH, Some(part_bytes)).part_bytes();
        assert_eq!(begun(103 * MIB), 103 * MIB);
        // Another target joined that accepts fewer parts.
        assert_eq!(begun(10 * MIB), 16 * MIB);
        assert_eq!(begun(1), 16 * MIB);
    }

    #[test]
    fn a_store_behind_a_proxy_gets_no_larger_request_than_that_lets_through() {
        let behind = Limits { max_put_bytes: 10 * MIB, ..USUAL };
        assert_eq!(plan(10 * MIB, behind, ENOUGH, None), Ok(Plan::Whole));
        assert_eq!(ranges_of(10 * MIB + 1, behind), [0..10 * MIB, 10 * MIB..10 * MIB + 1]);
        // Not in whole MiB, and used up to the last byte.
        let odd = Limits { max_parts: 3, max_put_bytes: 6 * MIB - 1, ..USUAL };
        assert_eq!(ranges_of(3 * (6 * MIB - 1), odd).len(), 3);
    }

    #[test]
    fn targets_that_agree_on_no_size_of_parts_are_told_so() {
        let few = Limits { max_parts: 1_000, max_put_bytes: 10 * MIB, ..USUAL };
        assert_eq!(
            plan(100 << 30, few, ENOUGH, None).unwrap_err().to_string(),
            "no size of parts suits all targets of an object of 100.0 GiB: it would need parts of 102.4 MiB, and one of \
             them takes 10.0 MiB in a request"
        );
    }

    proptest::proptest! {
        #[test]
        fn a_plan_keeps_every_limit(
            size in 0..5 * (1u64 << 40), max_parts in 1u32..=10_000, max_put_bytes in 5 * MIB..=5 << 30,
        ) {
            let limits = Limits { max_parts, max_put_bytes, min_part_bytes: 5 * MIB };
            match plan(size, limits, ENOUGH, None) {
                Ok(Plan::Whole) => proptest::prop_assert!(size <= max_put_bytes),
                Ok(Plan::Parts(parts)) => {
                    let ranges = all(parts);
                    proptest::prop_assert!(ranges.len() <= max_parts as usize);
                    proptest::prop_assert!(ranges[0].end <= max_put_bytes && ranges[0].end >= 5 * MIB);
                }
                // An object that the profile accepts can be planned.
                Err(_) => proptest::prop_assert!(size > max_put_bytes * u64::from(max_parts)),
            }
        }

        #[test]
        fn parts_cover_the_object_once_and_are_all_equal_but_the_last(
            size in WHOLE_UP_TO + 1..50 * (1u64 << 40), max_parts in 1_000u32..=10_000,
        ) {
            let ranges = ranges(size, max_parts);
            proptest::prop_assert!(ranges.len() <= max_parts as usize);
            proptest::prop_assert_eq!(ranges[0].start, 0);
            proptest::prop_assert_eq!(ranges.last().unwrap().end, size);
            let part = ranges[0].end;
            proptest::prop_assert!(part >= PART_AT_LEAST && part.is_multiple_of(MIB));
            for pair in ranges.windows(2) {
                proptest::prop_assert_eq!(pair[0].end, pair[1].start);
                proptest::prop_assert_eq!(pair[0].end - pair[0].start, part);
            }
            let last = ranges.last().unwrap();
            proptest::prop_assert!(last.start < last.end && last.end - last.start <= part);
        }
    }
}
