//! The remembered sockets.
//!
//! Socket storage (`BPF_MAP_TYPE_SK_STORAGE`) would be allocated and freed with every connection, which costs
//! more than all the counting. A set-associative table of fixed size needs neither. When a set is full, the
//! socket in it that has not changed for the longest time is forgotten, and from then on counted like one that
//! existed before the program was attached.

use tcpstate_common::{
    State,
    tally::{Failure, NOTES as NOTE_COUNT, Note, Place, PlaceSet, WAYS, end_kind, hash},
};

use crate::{
    emit::Transition as _,
    maps::{ADDRESS, NOTES, PLACES, address, config},
    nested::Part,
    socket::Call,
};

/// The place of the note about the socket at this address. Two sockets with the same hash share it, and a RST is
/// missed where the second ends before the first has sent its own.
#[inline(always)]
fn note_at(skaddr: u64) -> Option<*mut Note> {
    NOTES.get_ptr_mut(hash(skaddr) & (NOTE_COUNT - 1))
}

/// The set of places of a socket, and its place in it.
pub(super) struct Slot {
    skaddr: u64,
    places: *mut PlaceSet,
    /// The index of the socket's place; [`WAYS`] if it has none.
    way: u32,
}

impl Slot {
    #[inline(always)]
    pub(super) fn of(call: &Call, part: Part) -> Option<Self> {
        let key = match part {
            Part::First => address::FIRST,
            Part::Second => address::SECOND,
        };
        let skaddr = scalar_address(call, key)?;
        let places = PLACES.get_ptr_mut(hash(skaddr) & config!(place_mask))?;
        Some(Self {
            skaddr,
            places,
            way: find(places, skaddr),
        })
    }

    /// The socket's place, unless another CPU's write has mangled it.
    #[inline(always)]
    pub(super) fn place(&self) -> Option<Place> {
        if self.way >= WAYS as u32 {
            return None;
        }
        // SAFETY: the map lookup returned a valid pointer.
        let place = unsafe { (*self.places)[self.way as usize & (WAYS - 1)] };
        (place.check == place.digest()).then_some(place)
    }

    /// Notes the end of the socket, so that a RST that follows finds it. If one came before, the end is one with
    /// a RST.
    #[inline(always)]
    pub(super) fn note(&self, end: &mut Failure) {
        let Some(note) = note_at(self.skaddr) else {
            return;
        };
        // SAFETY: the map lookup returned a valid pointer.
        unsafe {
            if (*note).skaddr == self.skaddr && (*note).end.oldstate.0 == Note::RESET.oldstate.0 {
                (*note).skaddr = 0;
                end.end_kind |= end_kind::RESET_SENT;
                return;
            }
            (*note).end = *end;
            (*note).skaddr = self.skaddr;
        }
    }

    /// Forgets a RST that decides nothing here: the next socket at this address is another one.
    #[inline(always)]
    pub(super) fn forget_note(&self) {
        if let Some(note) = note_at(self.skaddr) {
            // SAFETY: the map lookup returned a valid pointer.
            unsafe {
                if (*note).skaddr == self.skaddr {
                    (*note).skaddr = 0;
                }
            }
        }
    }

    /// The place of the note about a socket that sends a RST.
    #[inline(always)]
    pub(super) fn note_of(call: &Call) -> Option<*mut Note> {
        note_at(scalar_address(call, address::RESET)?)
    }

    /// Forgets the socket.
    #[inline(always)]
    pub(super) fn clear(&self) {
        if self.way < WAYS as u32 {
            // SAFETY: the map lookup returned a valid pointer.
            unsafe { (*self.places)[self.way as usize & (WAYS - 1)].skaddr = 0 };
        }
    }

    /// Remembers the socket: in its own place, in a free one, or in that of the socket that has not changed for
    /// the longest time. Returns whether that socket had to be forgotten.
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
        // SAFETY: the map lookup returned a valid pointer.
        unsafe { (*self.places)[way as usize & (WAYS - 1)] = place };
        is_taken
    }
}

/// The socket's address as a scalar. The verifier forbids arithmetic such as hashing on a pointer, but a value
/// read back from a map is a scalar.
///
/// No other run uses this CPU's value between the two instructions, see [`ADDRESS`].
#[inline(always)]
fn scalar_address(call: &Call, key: u32) -> Option<u64> {
    let scratch = ADDRESS.get_ptr_mut(key)?;
    // SAFETY: the map lookup returned a valid pointer to this CPU's value.
    unsafe {
        scratch.write_volatile(call.skaddr());
        Some(scratch.read_volatile())
    }
}

/// The index of a socket's place in its set; [`WAYS`] if it has none.
#[inline(always)]
fn find(places: *const PlaceSet, skaddr: u64) -> u32 {
    for way in 0..WAYS {
        // SAFETY: the map lookup returned a valid pointer.
        let place = unsafe { &(*places)[way] };
        if place.skaddr == skaddr {
            return way as u32;
        }
    }
    WAYS as u32
}

/// The index of a free place, or else of the place that has not changed for the longest time; and whether it is
/// taken.
#[inline(always)]
fn free_or_oldest(places: *const PlaceSet) -> (u32, bool) {
    let (mut oldest, mut oldest_ns) = (WAYS as u32, u64::MAX);
    for way in 0..WAYS {
        // SAFETY: the map lookup returned a valid pointer.
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
