//! Storage for very many items of one size: pages of fixed size that never move.
//!
//! A `Vec` of a million connections would be copied each time it grows, with both copies resident,
//! and would never shrink. Here a page is added when the others are full and freed when nothing
//! on it is in use; the lowest page with room is filled first, so that the high ones empty.

#![expect(
    clippy::indexing_slicing,
    reason = "a slot is one that was given out here, so its page and its place there exist"
)]

/// Items on a page.
const PAGE: usize = 1 << 10;

/// The end of the list of a page's free items.
const NONE: u16 = u16::MAX;

/// An item of [`Pages`]: while it is free it holds the number of the next free one.
pub(super) trait Item: Clone {
    /// A free item.
    fn free(next: u16) -> Self;
    /// The number that [`Item::free`] was given, of a free item.
    fn next(&self) -> u16;
}

#[derive(Clone)]
struct Page<H, C> {
    /// Both empty when the page has been freed.
    hot: Box<[H]>,
    cold: Box<[C]>,
    free: u16,
    live: u16,
}

/// Two arrays with one numbering: the part that every event touches, and the rest.
#[derive(Clone)]
pub(super) struct Pages<H, C> {
    all: Vec<Page<H, C>>,
    /// A bit for each page with a free item.
    room: Vec<u64>,
    /// Pages with nothing in use that still have their memory.
    spare: usize,
    allocated: usize,
    live: usize,
}

impl<H: Item, C: Clone + Default> Pages<H, C> {
    pub(super) const fn new() -> Self {
        Self {
            all: Vec::new(),
            room: Vec::new(),
            spare: 0,
            allocated: 0,
            live: 0,
        }
    }

    /// Takes a free item. The caller overwrites both halves of it.
    pub(super) fn take(&mut self) -> u32 {
        let number = match self.room.iter().position(|&word| word != 0) {
            Some(at) => at * 64 + self.room[at].trailing_zeros() as usize,
            None => self.add_page(),
        };
        let page = &mut self.all[number];
        if page.hot.is_empty() {
            *page = Self::page();
            self.allocated += 1;
            self.spare += 1;
        }
        if page.live == 0 {
            self.spare -= 1;
        }
        let item = page.free;
        page.free = page.hot[usize::from(item)].next();
        page.live += 1;
        if page.free == NONE {
            self.room[number / 64] &= !(1 << (number % 64));
        }
        self.live += 1;
        slot_at(number, item)
    }

    /// Frees an item.
    pub(super) fn give(&mut self, slot: u32) {
        let (number, item) = place(slot);
        let page = &mut self.all[number];
        page.hot[item] = H::free(page.free);
        #[expect(clippy::cast_possible_truncation, reason = "below PAGE")]
        {
            page.free = item as u16;
        }
        page.live -= 1;
        self.room[number / 64] |= 1 << (number % 64);
        self.live -= 1;
        if page.live == 0 {
            // One empty page stays, so that a single connection that comes and goes costs no allocation.
            if self.spare == 0 {
                self.spare = 1;
            } else {
                page.hot = Box::default();
                page.cold = Box::default();
                page.free = 0;
                self.allocated -= 1;
            }
        }
    }

    #[inline]
    pub(super) fn hot(&self, slot: u32) -> &H {
        let (number, item) = place(slot);
        &self.all[number].hot[item]
    }

    #[inline]
    pub(super) fn hot_mut(&mut self, slot: u32) -> &mut H {
        let (number, item) = place(slot);
        &mut self.all[number].hot[item]
    }

    /// As [`Pages::hot`], of an item that may have been freed with its page.
    pub(super) fn get_hot(&self, slot: u32) -> Option<&H> {
        let (number, item) = place(slot);
        self.all.get(number)?.hot.get(item)
    }

    /// Both halves of an item.
    pub(super) fn both_mut(&mut self, slot: u32) -> (&mut H, &mut C) {
        let (number, item) = place(slot);
        let page = &mut self.all[number];
        (&mut page.hot[item], &mut page.cold[item])
    }

    #[inline]
    pub(super) fn cold(&self, slot: u32) -> &C {
        let (number, item) = place(slot);
        &self.all[number].cold[item]
    }

    /// Items in use.
    pub(super) const fn live(&self) -> usize {
        self.live
    }

    /// The slots of all items on the pages in memory, in use and free.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        self.all
            .iter()
            .enumerate()
            .filter(|(_, page)| !page.hot.is_empty())
            .flat_map(|(number, _)| {
                let first = slot_at(number, 0);
                first..slot_at(number + 1, 0)
            })
    }

    /// The slot after this one, in use or free; after the last comes the first. One must be in use.
    pub(super) fn after(&self, slot: u32) -> u32 {
        let mut number = slot as usize / PAGE;
        let next = slot as usize + 1;
        if !next.is_multiple_of(PAGE) && self.all.get(number).is_some_and(|page| page.live != 0) {
            return slot + 1;
        }
        loop {
            number = if number + 1 >= self.all.len() {
                0
            } else {
                number + 1
            };
            if self.all[number].live != 0 {
                return slot_at(number, 0);
            }
        }
    }

    /// Bytes held.
    pub(super) fn memory(&self) -> usize {
        self.allocated * PAGE * (size_of::<H>() + size_of::<C>())
            + self.all.capacity() * size_of::<Page<H, C>>()
            + self.room.capacity() * size_of::<u64>()
    }

    fn add_page(&mut self) -> usize {
        let number = self.all.len();
        self.all.push(Self::page());
        self.allocated += 1;
        self.spare += 1;
        if number / 64 == self.room.len() {
            self.room.push(0);
        }
        self.room[number / 64] |= 1 << (number % 64);
        number
    }

    fn page() -> Page<H, C> {
        #[expect(clippy::cast_possible_truncation, reason = "PAGE fits")]
        let hot = (1..=PAGE).map(|at| H::free(if at == PAGE { NONE } else { at as u16 }));
        Page {
            hot: hot.collect(),
            cold: vec![C::default(); PAGE].into_boxed_slice(),
            free: 0,
            live: 0,
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the table clamps `Limits::max_connections` to half of u32, plus a page"
)]
const fn slot_at(page: usize, item: u16) -> u32 {
    (page * PAGE) as u32 + item as u32
}

const fn place(slot: u32) -> (usize, usize) {
    (slot as usize / PAGE, slot as usize % PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Item for u64 {
        fn free(next: u16) -> Self {
            u64::from(next)
        }

        #[expect(clippy::cast_possible_truncation, reason = "free() stored it")]
        fn next(&self) -> u16 {
            *self as u16
        }
    }

    #[test]
    fn memory_grows_by_pages_and_is_freed() {
        let mut pages = Pages::<u64, u64>::new();
        let slots: Vec<u32> = (0..10 * PAGE).map(|_| pages.take()).collect();
        assert_eq!(pages.live(), 10 * PAGE);
        let full = pages.memory();
        assert!(full >= 10 * PAGE * 16);
        for &slot in &slots {
            pages.give(slot);
        }
        assert_eq!(pages.live(), 0);
        assert!(pages.memory() < full / 5, "{} of {full}", pages.memory());
        let mut again: Vec<u32> = (0..3 * PAGE).map(|_| pages.take()).collect();
        again.sort_unstable();
        again.dedup();
        assert_eq!(again.len(), 3 * PAGE, "an item was handed out twice");
        assert_eq!(
            again.last(),
            Some(&(slot_at(3, 0) - 1)),
            "the lowest pages fill first"
        );
    }

    #[test]
    fn going_round_meets_every_item_in_use() {
        let mut pages = Pages::<u64, u64>::new();
        let slots: Vec<u32> = (0..3 * PAGE).map(|_| pages.take()).collect();
        // The page in the middle goes.
        for &slot in &slots[PAGE..2 * PAGE] {
            pages.give(slot);
        }
        let mut at = 0;
        let mut met = vec![0];
        for _ in 1..2 * PAGE {
            at = pages.after(at);
            met.push(at);
        }
        met.sort_unstable();
        let expected: Vec<u32> = slots[..PAGE]
            .iter()
            .chain(&slots[2 * PAGE..])
            .copied()
            .collect();
        assert_eq!(met, expected);
    }
}
