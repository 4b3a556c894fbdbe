//! The sockets that are remembered.
//!
//! Not in storage of the kernel's at the socket itself: that is allocated and freed with every connection,
//! which costs more than all the counting. A table of fixed size does neither; what it cannot hold is
//! forgotten, the oldest of a set first, and counted like a socket that was there before.

use tcpstate_common::{
    State,
    tally::{Place, PlaceSet, WAYS, hash},
};

use crate::{
    emit::Transition as _,
    maps::{PLACES, SCRATCH, config},
    socket::Call,
};

/// Where a socket is remembered, or would be.
pub(super) struct Slot {
    skaddr: u64,
    places: *mut PlaceSet,
    /// Its place in the set; [`WAYS`] if it has none.
    way: u32,
}

impl Slot {
    #[inline(always)]
    pub(super) fn of(call: &Call) -> Option<Self> {
        let skaddr = as_number(call)?;
        let places = PLACES.get_ptr_mut(hash(skaddr) & config!(place_mask))?;
        Some(Self {
            skaddr,
            places,
            way: find(places, skaddr),
        })
    }

    /// What is remembered, if it is whole.
    #[inline(always)]
    pub(super) fn place(&self) -> Option<Place> {
        if self.way >= WAYS as u32 {
            return None;
        }
        // SAFETY: the map lookup gave a valid pointer.
        let place = unsafe { (*self.places)[self.way as usize & (WAYS - 1)] };
        (place.check == place.digest()).then_some(place)
    }

    /// Forgets the socket.
    #[inline(always)]
    pub(super) fn clear(&self) {
        if self.way < WAYS as u32 {
            // SAFETY: the map lookup gave a valid pointer.
            unsafe { (*self.places)[self.way as usize & (WAYS - 1)].skaddr = 0 };
        }
    }

    /// Remembers the socket: where it was, in a free place, or where the one is that has not changed for the
    /// longest. Returns whether that one had to be forgotten.
    #[inline(always)]
    pub(super) fn put(&self, since_ns: u64, row: u16, state: State, is_pending: bool) -> bool {
        let (way, is_taken) = if self.way < WAYS as u32 {
            (self.way, false)
        } else {
            free_or_oldest(self.places)
        };
        let mut place = Place {
            skaddr: self.skaddr,
            since_ns,
            row,
            state,
            pending: u8::from(is_pending),
            check: 0,
        };
        place.check = place.digest();
        // SAFETY: the map lookup gave a valid pointer.
        unsafe { (*self.places)[way as usize & (WAYS - 1)] = place };
        is_taken
    }
}

/// The socket's address as a number to calculate with. The verifier does not allow that with a pointer; what
/// comes back from a map is none.
///
/// No run shares the map's value between these two instructions: see [`super`].
#[inline(always)]
fn as_number(call: &Call) -> Option<u64> {
    let scratch = SCRATCH.get_ptr_mut(0)?.cast::<u64>();
    // SAFETY: the map lookup gave a valid pointer to this CPU's value.
    unsafe {
        scratch.write_volatile(call.skaddr());
        Some(scratch.read_volatile())
    }
}

/// The place of a socket in its set; [`WAYS`] if it has none.
#[inline(always)]
fn find(places: *const PlaceSet, skaddr: u64) -> u32 {
    for way in 0..WAYS {
        // SAFETY: the map lookup gave a valid pointer.
        let place = unsafe { &(*places)[way] };
        if place.skaddr == skaddr {
            return way as u32;
        }
    }
    WAYS as u32
}

/// A place that is free, or the one that has not changed for the longest; and whether it is taken.
#[inline(always)]
fn free_or_oldest(places: *const PlaceSet) -> (u32, bool) {
    let (mut oldest, mut oldest_ns) = (WAYS as u32, u64::MAX);
    for way in 0..WAYS {
        // SAFETY: the map lookup gave a valid pointer.
        let held = unsafe { &(*places)[way] };
        if held.skaddr == 0 {
            return (way as u32, false);
        }
        if held.since_ns < oldest_ns {
            (oldest_ns, oldest) = (held.since_ns, way as u32);
        }
    }
    (oldest, true)
}
