//! From a batch to the view: the filter's gate, and intervals that events close.

use std::{io, mem};

use tcpstate_core::{event::Event, packet::ConnectionPacket, recalled::Recalled, view::Flow};

use super::{Driver, Intake, LOOK_AHEAD, TICKS_AT_ONCE};

impl Driver<'_> {
    /// Whether something can be shown now.
    pub(super) fn has_rest(&self) -> bool {
        let is_left = self.position < self.batch.len() || self.census.is_some();
        if self.player.is_some() {
            is_left && !self.is_holding() || self.owes_ticks()
        } else {
            is_left
        }
    }

    /// Shows the rest of the batch, or the part that fits into the budget of intervals.
    #[expect(
        clippy::indexing_slicing,
        reason = "position < the length of the batch"
    )]
    pub(super) fn show(&mut self) -> io::Result<Flow> {
        let mut ticks = TICKS_AT_ONCE;
        while let Some(event) = self.batch.get(self.position) {
            if self.intake != Intake::All {
                self.selection.unread += (self.batch.len() - self.position) as u64;
                self.position = self.batch.len();
                return Ok(Flow::Continue);
            }
            let ts_ns = event.ts_ns();
            if let Some(from_ns) = self.from_ns {
                if ts_ns < from_ns {
                    if self.recall_before(from_ns)? == Flow::Done {
                        return Ok(Flow::Done);
                    }
                    continue;
                }
                self.from_ns = None;
            }
            if self.holds(ts_ns) {
                break;
            }
            if self.close_intervals(ts_ns, &mut ticks)? == Flow::Done {
                return Ok(Flow::Done);
            }
            if ticks == 0 {
                break;
            }
            if self.is_beyond_limit(ts_ns) {
                continue;
            }
            self.latest_ns = self.latest_ns.max(ts_ns);
            self.has_shown(ts_ns);
            if self.position.is_multiple_of(LOOK_AHEAD) {
                let end = self.batch.len().min(self.position + LOOK_AHEAD);
                self.view.look_ahead(&self.batch[self.position..end]);
            }
            self.position += 1;
            self.is_empty = false;
            if self.show_one(self.position - 1)? == Flow::Done {
                return Ok(Flow::Done);
            }
        }
        let is_shown = self.position >= self.batch.len();
        if ticks > 0 && is_shown && self.show_census(&mut ticks)? == Flow::Done {
            return Ok(Flow::Done);
        }
        if self.reach(&mut ticks)? == Flow::Done {
            return Ok(Flow::Done);
        }
        if self.flush_each_batch {
            self.out.flush()?;
        }
        Ok(Flow::Continue)
    }

    /// Ends a recording that has reached the end of what was asked for.
    fn is_beyond_limit(&mut self, ts_ns: u64) -> bool {
        let limit_ns = self.limit_ns.filter(|&ns| ns <= ts_ns && !self.origin.live);
        if let Some(limit_ns) = limit_ns {
            self.latest_ns = limit_ns;
            self.intake = Intake::Ticks;
            self.stop(limit_ns);
        }
        limit_ns.is_some()
    }

    /// Recalls the next events of the batch, up to the first one at this time.
    fn recall_before(&mut self, from_ns: u64) -> io::Result<Flow> {
        let rest = self.batch.get(self.position..).unwrap_or_default();
        let earlier = rest.iter().take_while(|event| event.ts_ns() < from_ns);
        let earlier: Vec<Event> = earlier.copied().collect();
        self.position += earlier.len();
        self.selection.earlier += earlier.len() as u64;
        self.recall(Recalled::Events(earlier))
    }

    /// Passes what was known before the first event to the view, without the sockets that the filters exclude.
    pub(super) fn recall(&mut self, mut recalled: Recalled) -> io::Result<Flow> {
        if self.intake != Intake::All {
            return Ok(Flow::Continue);
        }
        if let Some(gate) = &mut self.gate {
            match &mut recalled {
                Recalled::Census(census) => gate.recall_census(census),
                Recalled::Events(events) => {
                    let pass = |event| {
                        let passed = gate.recall(&event);
                        let earlier = passed.earlier.map(|pass| pass.event);
                        let itself = passed.event.map(|_| event);
                        earlier.into_iter().chain(itself)
                    };
                    *events = mem::take(events).into_iter().flat_map(pass).collect();
                }
            }
        }
        match &recalled {
            Recalled::Events(events) if events.is_empty() => Ok(Flow::Continue),
            _ => self.view.recall(&recalled),
        }
    }

    /// Passes the census behind the batch to the view, without the sockets that the filters exclude.
    fn show_census(&mut self, ticks: &mut u32) -> io::Result<Flow> {
        let Some(mut census) = self.census.take() else {
            return Ok(Flow::Continue);
        };
        if self.intake != Intake::All {
            return Ok(Flow::Continue);
        }
        if self
            .from_ns
            .is_some_and(|from_ns| census.begin_ns < from_ns)
        {
            return self.recall(Recalled::Census(census));
        }
        self.from_ns = None;
        if self.holds(census.begin_ns) {
            self.census = Some(census);
            return Ok(Flow::Continue);
        }
        if self.is_beyond_limit(census.begin_ns) {
            return Ok(Flow::Continue);
        }
        // Seeded sockets belong to the first interval, however long the dump took.
        let at_ns = if census.scope.is_of_sockets() {
            0
        } else {
            census.begin_ns
        };
        if self.close_intervals(at_ns, ticks)? == Flow::Done {
            return Ok(Flow::Done);
        }
        if *ticks == 0 {
            self.census = Some(census);
            return Ok(Flow::Continue);
        }
        self.is_empty = false;
        if let Some(gate) = &mut self.gate {
            gate.census(&mut census);
        }
        self.view.census(&census, self.out)
    }

    /// Passes packets to the view, without those that the filters exclude and those outside the part that was asked for.
    pub(super) fn show_packets(&mut self, mut packets: Vec<ConnectionPacket>) -> io::Result<Flow> {
        if self.intake == Intake::Nothing {
            return Ok(Flow::Continue);
        }
        let part = self.part.as_ref();
        let from_ns = part.and_then(|part| part.from_ns).unwrap_or(0);
        let limit_ns = self.limit_ns.unwrap_or(u64::MAX);
        packets.retain(|packet| (from_ns..limit_ns).contains(&packet.ts_ns));
        let are_selected = self
            .gate
            .as_ref()
            .is_none_or(|gate| gate.packets(&mut packets));
        let flow = self.view.packets(&packets, are_selected, self.out)?;
        if self.flush_each_batch {
            self.out.flush()?;
        }
        Ok(flow)
    }

    /// Passes the event at `index` of the batch to the view, if the filter lets it through.
    #[expect(
        clippy::indexing_slicing,
        reason = "by the number of an event of the batch"
    )]
    fn show_one(&mut self, index: usize) -> io::Result<Flow> {
        let event = &self.batch[index];
        let Some(gate) = &mut self.gate else {
            self.selection.settled.passed += 1;
            return self.view.event(event, self.out);
        };
        let passed = gate.push(event);
        if let Some(earlier) = &passed.earlier {
            let flow = if passed.is_recalled {
                self.view.recall(&Recalled::Events(vec![earlier.event]))?
            } else if earlier.is_shown {
                self.view.event(&earlier.event, self.out)?
            } else {
                self.view.follow(&earlier.event);
                Flow::Continue
            };
            if flow == Flow::Done {
                return Ok(Flow::Done);
            }
        }
        match passed.event {
            None => Ok(Flow::Continue),
            Some(true) => self.view.event(event, self.out),
            Some(false) => {
                self.view.follow(event);
                Ok(Flow::Continue)
            }
        }
    }
}
