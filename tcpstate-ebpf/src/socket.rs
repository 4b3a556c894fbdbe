//! Sockets as a BTF tracepoint sees them: pointers whose type the verifier knows, read by direct loads.
//!
//! *Source:* `include/trace/events/sock.h`: `TP_PROTO(const struct sock *sk, const int oldstate,
//! const int newstate)`.

use aya_ebpf::{
    helpers::generated::{bpf_get_socket_cookie, bpf_skc_to_tcp_sock},
    programs::BtfTracePointContext,
};
use tcpstate_common::{
    Record, State,
    config::MAX_CGROUP_DEPTH,
    filter::{Ends, Key},
    record::{AF_INET, end, flags},
};

use crate::{
    emit::{Transition, load},
    maps::config,
};

/// One call of the tracepoint `inet_sock_set_state`.
pub(crate) struct Call {
    sk: *const u8,
    /// The same socket as a `struct tcp_sock`; null if it is none, or before [`Call::with_tcp`].
    tcp: *const u8,
    oldstate: State,
    newstate: State,
}

impl Call {
    /// Reads the arguments of the tracepoint.
    #[inline(always)]
    pub(crate) fn new(ctx: &BtfTracePointContext) -> Self {
        Self {
            sk: ctx.arg(0),
            tcp: core::ptr::null(),
            oldstate: State(ctx.arg::<i32>(1) as u8),
            newstate: State(ctx.arg::<i32>(2) as u8),
        }
    }

    /// Adds the `struct tcp_sock`, which takes a helper call: it has the local port at `-> CLOSE` and the
    /// connection's counters.
    #[inline(always)]
    pub(crate) fn with_tcp(&self) -> Self {
        Self {
            // SAFETY: `sk` is the tracepoint's argument.
            tcp: unsafe { bpf_skc_to_tcp_sock(self.sk.cast_mut().cast()) }.cast(),
            ..*self
        }
    }

    /// The states before and after.
    #[inline(always)]
    pub(crate) fn states(&self) -> (State, State) {
        (self.oldstate, self.newstate)
    }

    /// A socket that makes no transition; not null.
    #[inline(always)]
    pub(crate) fn of_socket(sk: *const u8, state: State) -> Self {
        Self {
            sk,
            tcp: core::ptr::null(),
            oldstate: state,
            newstate: state,
        }
    }

    /// `sk_err`.
    #[inline(always)]
    pub(crate) fn error(&self) -> u16 {
        self.sk::<u32>(config!(offsets.sk_err)) as u16
    }

    /// The bits of [`flags`] that come from `sk_flags` and `sk_shutdown`.
    #[inline(always)]
    pub(crate) fn flags(&self) -> u8 {
        flags::of_socket(
            self.sk(config!(offsets.sk_flags)),
            self.sk(config!(offsets.sk_shutdown)),
        )
    }

    #[inline(always)]
    fn netns(&self) -> u32 {
        let net: *const u8 = self.sk(config!(offsets.sk_net));
        // SAFETY: a pointer whose type the verifier knows.
        unsafe { load(net, config!(offsets.net_inum)) }
    }

    #[inline(always)]
    fn cgroup(&self) -> u64 {
        if config!(has_cgroup) == 0 {
            return 0;
        }
        let cgroup: *const u8 = self.sk(config!(offsets.sk_cgroup));
        // SAFETY: pointers whose types the verifier knows; a null pointer reads as 0.
        unsafe {
            let kn: *const u8 = load(cgroup, config!(offsets.cgroup_kn));
            load(kn, config!(offsets.kn_id))
        }
    }

    /// Reads a `T` from the `struct sock`.
    #[inline(always)]
    fn sk<T: Copy>(&self, offset: u32) -> T {
        // SAFETY: `sk` is the tracepoint's argument.
        unsafe { load(self.sk, offset) }
    }
}

impl Transition for Call {
    #[inline(always)]
    fn protocol(&self) -> u16 {
        self.sk(config!(offsets.sk_protocol))
    }

    #[inline(always)]
    fn keeps_netns(&self) -> bool {
        let wanted = config!(filter.netns);
        wanted == 0 || wanted == self.netns()
    }

    #[inline(always)]
    fn keeps_cgroup(&self) -> bool {
        let wanted = config!(filter.cgroup);
        if wanted == 0 || config!(has_cgroup) == 0 {
            return true;
        }
        let mut cgroup: *const u8 = self.sk(config!(offsets.sk_cgroup));
        for _ in 0..MAX_CGROUP_DEPTH {
            // SAFETY: pointers whose types the verifier knows; a null pointer reads as 0.
            unsafe {
                let kn: *const u8 = load(cgroup, config!(offsets.cgroup_kn));
                if load::<u64>(kn, config!(offsets.kn_id)) == wanted {
                    return true;
                }
                let parent: *const u8 = load(cgroup, config!(offsets.cgroup_parent));
                if parent.is_null() {
                    return false;
                }
                cgroup = load(parent, config!(offsets.css_cgroup));
            }
        }
        true
    }

    #[inline(always)]
    fn key(&self) -> Key {
        let tcp = self.tcp;
        // At `-> CLOSE`, `skc_num` is already 0, but `inet_sport` is not.
        let lport = if tcp.is_null() {
            self.sk(config!(offsets.sk_num))
        } else {
            // SAFETY: not null.
            u16::from_be(unsafe { load(tcp, config!(offsets.inet_sport)) })
        };
        Key {
            family: self.sk::<u16>(config!(offsets.sk_family)) as u8,
            lport,
            rport: u16::from_be(self.sk(config!(offsets.sk_dport))),
            oldstate: self.oldstate,
            newstate: self.newstate,
        }
    }

    #[inline(always)]
    fn ends(&self, family: u8) -> Ends {
        if family == AF_INET {
            Ends {
                local: v4_mapped(self.sk(config!(offsets.sk_rcv_saddr))),
                remote: v4_mapped(self.sk(config!(offsets.sk_daddr))),
            }
        } else {
            Ends {
                local: self.sk(config!(offsets.sk_v6_rcv_saddr)),
                remote: self.sk(config!(offsets.sk_v6_daddr)),
            }
        }
    }

    #[inline(always)]
    fn skaddr(&self) -> u64 {
        self.sk as u64
    }

    #[inline(always)]
    unsafe fn fill(&self, key: &Key, record: *mut Record) -> u8 {
        let mut known = flags::SOCKET;
        // SAFETY: `record` is valid for writes, as the caller guarantees.
        unsafe {
            (*record).netns = self.netns();
            (*record).uid = self.sk(config!(offsets.sk_uid));
            (*record).error = self.error();
            known |= self.flags();
            (*record).cgroup = self.cgroup();

            // Older kernels copy the request socket's cookie and remote port into a child only after this
            // transition (`inet_csk_clone_lock`), and would overwrite a cookie made here. Later kernels copy
            // both before it, so the remote port is already set.
            (*record).cookie = 0;
            if config!(has_cookie) != 0 && !key.pending_ports().rport {
                // The helper makes a cookie for a socket that has none yet; otherwise a load will do.
                let mut cookie: u64 = self.sk(config!(offsets.sk_cookie));
                if cookie == 0 {
                    cookie = bpf_get_socket_cookie(self.sk.cast_mut().cast());
                }
                (*record).cookie = cookie;
                known |= flags::COOKIE;
            }

            let tcp = self.tcp;
            if tcp.is_null() {
                (*record).bytes_sent = 0;
                (*record).bytes_received = 0;
                (*record).srtt_us = 0;
                (*record).retransmits = 0;
            } else {
                (*record).bytes_sent = load(tcp, config!(offsets.tcp_bytes_sent));
                (*record).bytes_received = load(tcp, config!(offsets.tcp_bytes_received));
                // The kernel stores eight times the value.
                (*record).srtt_us = load::<u32>(tcp, config!(offsets.tcp_srtt_us)) >> 3;
                (*record).retransmits = load(tcp, config!(offsets.tcp_total_retrans));
                known |= flags::TCP;
            }
        }
        known
    }

    #[inline(always)]
    fn connecting(&self, key: &Key) -> u32 {
        if self.tcp.is_null() {
            return 0;
        }
        // SAFETY: not null.
        let (segs_out, write_seq) = unsafe {
            (
                load(self.tcp, config!(offsets.tcp_segs_out)),
                load(self.tcp, config!(offsets.tcp_write_seq)),
            )
        };
        end::of_connecting(key.lport, segs_out, write_seq)
    }

    #[inline(always)]
    fn reported(&self) -> u16 {
        let soft: u32 = self.sk(config!(offsets.sk_err_soft));
        if soft != 0
            || config!(offsets.skb_errno) == 0
            || self.sk::<u32>(config!(offsets.sk_error_qlen)) == 0
        {
            return soft as u16;
        }
        let packet: *const u8 = self.sk(config!(offsets.sk_error_first));
        // SAFETY: a pointer whose type the verifier knows.
        unsafe { load::<u32>(packet, config!(offsets.skb_errno)) as u16 }
    }
}

/// `::ffff:a.b.c.d` as two words in memory order.
#[inline(always)]
fn v4_mapped(address: u32) -> [u64; 2] {
    [0, (u64::from(address) << 32) | 0xffff_0000]
}
