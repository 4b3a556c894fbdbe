//! The condition of a dump as the program that the kernel runs for each socket (`INET_DIAG_REQ_BYTECODE`). Pure.
//!
//! Each operation jumps ahead: by `yes` bytes if it is true, else by `no`. To the very end accepts the socket, four bytes
//! beyond it rejects it. The operations used are older than any kernel that runs this, and the same that ss(8) uses.
//!
//! *Source:* `inet_diag_bc_run` and `inet_diag_bc_audit` in `net/ipv4/inet_diag.c`, `include/uapi/linux/inet_diag.h`.

use std::net::{IpAddr, Ipv4Addr};

use tcpstate_common::record::{AF_INET, AF_INET6};
use tcpstate_core::{
    expression::{EndCondition, Side},
    filter::Family,
};

const JUMP: u8 = 1;
const LOCAL: Operations = Operations {
    at_least: 2,
    at_most: 3,
    end: 7,
};
const REMOTE: Operations = Operations {
    at_least: 4,
    at_most: 5,
    end: 8,
};
const AF_UNSPEC: u8 = 0;
/// Beyond the end of the program: the socket is rejected.
const REJECT: usize = 4;
/// `struct inet_diag_bc_op`.
const OPERATION: usize = 4;

/// The numbers of the operations on an end.
struct Operations {
    at_least: u8,
    at_most: u8,
    /// With a `struct inet_diag_hostcond`.
    end: u8,
}

/// The program for this condition; `None`: it has every socket, or the program would be longer than the kernel takes.
pub fn compile(condition: &EndCondition) -> Option<Vec<u8>> {
    let code = Code::of(condition);
    let mut bytes = Vec::with_capacity(code.length());
    code.write(REJECT, &mut bytes)?;
    (!bytes.is_empty()).then_some(bytes)
}

/// A part of the program: what is behind it follows if it is true.
enum Code {
    /// An operation and its arguments.
    Test(u8, Vec<u8>),
    Not(Box<Self>),
    All(Vec<Self>),
    Any(Vec<Self>),
}

impl Code {
    fn of(condition: &EndCondition) -> Self {
        match condition {
            EndCondition::Port(side, range) => {
                let operations = operations(*side);
                match (*range.start(), *range.end()) {
                    (first, last) if first == last => {
                        end(*side, AF_UNSPEC, 0, first.into(), &[0; 4])
                    }
                    (0, last) => port(operations.at_most, last),
                    (first, u16::MAX) => port(operations.at_least, first),
                    (first, last) => Self::All(vec![
                        port(operations.at_least, first),
                        port(operations.at_most, last),
                    ]),
                }
            }
            EndCondition::Address(side, prefix) => {
                address(*side, prefix.addr(), prefix.prefix_len())
            }
            EndCondition::NotAddress(side, prefix) => {
                address(*side, prefix.addr(), prefix.prefix_len()).not()
            }
            // One address is enough: a listener has only one, and the addresses of a connection are of one kind.
            EndCondition::Family(Family::Ipv4) => {
                Self::Any([Side::Local, Side::Remote].map(is_ipv4).into())
            }
            EndCondition::Family(Family::Ipv6) => Self::All(
                [Side::Local, Side::Remote]
                    .map(|side| is_ipv4(side).not())
                    .into(),
            ),
            EndCondition::All(all) => Self::All(all.iter().map(Self::of).collect()),
            EndCondition::Any(any) => Self::Any(any.iter().map(Self::of).collect()),
        }
    }

    fn not(self) -> Self {
        Self::Not(Box::new(self))
    }

    /// Its length in bytes.
    fn length(&self) -> usize {
        match self {
            Self::Test(_, arguments) => OPERATION + arguments.len(),
            Self::Not(code) => code.length() + OPERATION,
            Self::All(all) => all.iter().map(Self::length).sum(),
            // Between two there is a jump; of none, one that rejects.
            Self::Any(any) => {
                let parts: usize = any.iter().map(Self::length).sum();
                parts + OPERATION * any.len().abs_diff(1)
            }
        }
    }

    /// Appends it. If it is false, the program goes on `no` bytes behind it. `None`: a jump is too long.
    fn write(&self, no: usize, bytes: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::Test(operation, arguments) => {
                let length = OPERATION + arguments.len();
                bytes.extend([*operation, u8::try_from(length).ok()?]);
                bytes.extend(u16::try_from(length + no).ok()?.to_ne_bytes());
                bytes.extend(arguments);
            }
            Self::Not(code) => {
                code.write(OPERATION, bytes)?;
                jump(no, bytes)?;
            }
            Self::All(all) => {
                let mut behind: usize = self.length();
                for code in all {
                    behind -= code.length();
                    code.write(behind + no, bytes)?;
                }
            }
            Self::Any(any) => {
                let Some((last, others)) = any.split_last() else {
                    return jump(no, bytes);
                };
                let mut behind = self.length();
                for code in others {
                    behind -= code.length() + OPERATION;
                    code.write(OPERATION, bytes)?;
                    jump(behind, bytes)?;
                }
                last.write(no, bytes)?;
            }
        }
        Some(())
    }
}

/// Appends a jump over so many bytes.
fn jump(over: usize, bytes: &mut Vec<u8>) -> Option<()> {
    // The kernel takes `yes` for the length of the operation.
    bytes.extend([JUMP, 4]);
    bytes.extend(u16::try_from(OPERATION + over).ok()?.to_ne_bytes());
    Some(())
}

const fn operations(side: Side) -> &'static Operations {
    match side {
        Side::Local => &LOCAL,
        Side::Remote => &REMOTE,
    }
}

/// A comparison with a port, which stands where an operation has its `no`.
fn port(operation: u8, port: u16) -> Code {
    let [first, second] = port.to_ne_bytes();
    Code::Test(operation, vec![0, 0, first, second])
}

/// `struct inet_diag_hostcond`. `port`: -1 is any.
fn end(side: Side, family: u8, bits: u8, port: i32, address: &[u8]) -> Code {
    let mut arguments = vec![family, bits, 0, 0];
    arguments.extend(port.to_ne_bytes());
    arguments.extend(address);
    Code::Test(operations(side).end, arguments)
}

/// For `AF_INET` the kernel takes v4-mapped addresses for IPv4, for `AF_INET6` for IPv6.
fn address(side: Side, address: IpAddr, bits: u8) -> Code {
    match address {
        IpAddr::V4(v4) => end(side, AF_INET, bits, -1, &v4.octets()),
        IpAddr::V6(v6) => {
            let mapped = Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().to_bits();
            let differs = (mapped ^ v6.to_bits()).leading_zeros();
            let test = end(side, AF_INET6, bits, -1, &v6.octets());
            if u32::from(bits) <= differs.min(96) {
                // They are in it.
                Code::All(vec![test, is_ipv4(side).not()])
            } else {
                test
            }
        }
    }
}

/// Whether the address of an end is IPv4 or v4-mapped.
fn is_ipv4(side: Side) -> Code {
    end(side, AF_INET, 0, -1, &[0; 4])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tcpstate_core::expression::{Expression, NoNames};

    use super::*;

    fn condition(text: &str) -> EndCondition {
        let expression = Expression::parse(text, &NoNames).unwrap();
        // Without the listeners.
        match expression.for_dump(Some("connected".parse().unwrap())).ends {
            EndCondition::Any(mut any) => {
                let listeners = any.pop();
                assert_eq!(listeners, Some(EndCondition::Port(Side::Remote, 0..=0)));
                match any.len() {
                    1 => any.remove(0),
                    _ => EndCondition::Any(any),
                }
            }
            other => other,
        }
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let digits = hex.as_bytes().chunks(2);
        let digits = digits.map(|two| std::str::from_utf8(two).unwrap());
        digits
            .map(|two| u8::from_str_radix(two, 16).unwrap())
            .collect()
    }

    /// As `ss -tan` of iproute2 6.1 sends them (`strace -e trace=sendmsg -e write=all`).
    #[test]
    #[cfg(target_endian = "little")]
    fn programs_are_those_of_ss() {
        for (text, expected) in [
            ("sport = :80", "07101400000000005000000000000000"),
            ("dport <= 1024", "05080c0000000004"),
            ("sport >= 443", "02080c000000bb01"),
            ("dst 10.0.0.0/8", "0810140002080000ffffffff0a000000"),
            (
                "src [::1]",
                "071c20000a800000ffffffff00000000000000000000000000000001",
            ),
            (
                "not dst 10.0.0.1",
                "0810140002200000ffffffff0a00000101040800",
            ),
            (
                "not src [::1]",
                "071c20000a800000ffffffff0000000000000000000000000000000101040800",
            ),
            (
                "sport = :80 or dst 10.0.0.1",
                "07101400000000005000000000000000010414000810140002200000ffffffff0a000001",
            ),
            (
                "sport = :80 and dport >= 5",
                "07101c0000000000500000000000000004080c0000000500",
            ),
            (
                "( sport = :80 or sport = :443 ) and dst 10.0.0.1",
                "07101400000000005000000000000000010414000710240000000000bb010000000000000810140002200000\
                 ffffffff0a000001",
            ),
            (
                "( sport = :80 or sport = :443 ) and not dst 10.0.0.1",
                "07101400000000005000000000000000010414000710280000000000bb010000000000000810140002200000\
                 ffffffff0a00000101040800",
            ),
        ] {
            assert_eq!(compile(&condition(text)), Some(bytes(expected)), "{text}");
        }
    }

    #[test]
    fn every_socket_takes_no_program() {
        assert_eq!(compile(&condition("")), None);
        assert_eq!(compile(&EndCondition::ALWAYS), None);
    }

    #[test]
    fn a_program_is_no_longer_than_its_jumps() {
        let any = (1..4_000).map(|port| EndCondition::Port(Side::Local, port..=port));
        assert_eq!(compile(&EndCondition::Any(any.collect())), None);
    }

    /// A socket as the kernel has it: its family, and each address as 16 bytes, of which IPv4 has the first four.
    #[derive(Clone, Copy, Debug)]
    struct Entry {
        family: u8,
        local: ([u8; 16], u16),
        remote: ([u8; 16], u16),
    }

    impl Entry {
        fn new(local: (IpAddr, u16), remote: (IpAddr, u16), is_inet6: bool) -> Self {
            let is_v4 = local.0.is_ipv4() && remote.0.is_ipv4() && !is_inet6;
            let end = |(address, port): (IpAddr, u16)| match address {
                IpAddr::V4(v4) if is_v4 => {
                    let mut bytes = [0; 16];
                    bytes[..4].copy_from_slice(&v4.octets());
                    (bytes, port)
                }
                IpAddr::V4(v4) => (v4.to_ipv6_mapped().octets(), port),
                IpAddr::V6(v6) => (v6.octets(), port),
            };
            Self {
                family: if is_v4 { AF_INET } else { AF_INET6 },
                local: end(local),
                remote: end(remote),
            }
        }
    }

    /// The kernel's work with a program, written after its rules. Fails where it would refuse the program.
    fn run(program: &[u8], entry: &Entry) -> bool {
        let u16_at = |at: usize| usize::from(u16::from_ne_bytes([program[at], program[at + 1]]));
        let mut starts = vec![];
        let mut at = 0;
        while at < program.len() {
            starts.push(at);
            at += usize::from(program[at + 1]);
        }
        assert_eq!(at, program.len());
        for &at in &starts {
            let jump = at + u16_at(at + 2);
            assert!(jump % 4 == 0 && jump <= program.len() + 4);
            assert!(jump >= program.len() || starts.contains(&jump), "{jump}");
        }
        let begins = |one: &[u8], other: &[u8], bits: u8| {
            (0..usize::from(bits))
                .all(|bit| (one[bit / 8] ^ other[bit / 8]) << (bit % 8) & 0x80 == 0)
        };
        let mut at = 0;
        while at < program.len() {
            let operands = &program[at + 4..at + usize::from(program[at + 1])];
            let is_true = match program[at] {
                JUMP => false,
                2 => usize::from(entry.local.1) >= u16_at(at + 6),
                3 => usize::from(entry.local.1) <= u16_at(at + 6),
                4 => usize::from(entry.remote.1) >= u16_at(at + 6),
                5 => usize::from(entry.remote.1) <= u16_at(at + 6),
                code @ (7 | 8) => {
                    let (address, port) = if code == 7 { entry.local } else { entry.remote };
                    let wanted = i32::from_ne_bytes(operands[4..8].try_into().unwrap());
                    let [family, bits, ..] = *operands else {
                        unreachable!()
                    };
                    let prefix = &operands[8..];
                    assert!(usize::from(bits) <= 8 * prefix.len());
                    let is_there = if family == AF_UNSPEC || family == entry.family {
                        begins(&address, prefix, bits)
                    } else {
                        let mapped = Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().octets();
                        (entry.family, family) == (AF_INET6, AF_INET)
                            && begins(&address, &mapped, 96)
                            && begins(&address[12..], prefix, bits)
                    };
                    (wanted == -1 || wanted == i32::from(port)) && is_there
                }
                code => unreachable!("operation {code}"),
            };
            at += if is_true {
                usize::from(program[at + 1])
            } else {
                u16_at(at + 2)
            };
        }
        at == program.len()
    }

    fn any_condition() -> impl Strategy<Value = EndCondition> {
        let side = || prop_oneof![Just(Side::Local), Just(Side::Remote)];
        let port = || prop_oneof![0..6u16, 65_530..=65_535u16];
        let prefix = || {
            let all = [
                "10.0.0.0/8",
                "10.1.0.0/15",
                "0.0.0.0/0",
                "10.0.0.1/32",
                "::/0",
                "::/64",
                "2001:db8::/32",
                "2001:db8::1/128",
                "::ffff:0:0/95",
                "8000::/1",
            ];
            prop::sample::select(all.to_vec())
        };
        let leaf = prop_oneof![
            (side(), port(), port())
                .prop_map(|(side, a, b)| EndCondition::Port(side, a.min(b)..=a.max(b))),
            (side(), prefix())
                .prop_map(|(side, prefix)| EndCondition::Address(side, prefix.parse().unwrap())),
            (side(), prefix())
                .prop_map(|(side, prefix)| EndCondition::NotAddress(side, prefix.parse().unwrap())),
            Just(EndCondition::Family(Family::Ipv4)),
            Just(EndCondition::Family(Family::Ipv6)),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(EndCondition::All),
                prop::collection::vec(inner, 0..4).prop_map(EndCondition::Any),
            ]
        })
    }

    fn any_end() -> impl Strategy<Value = (IpAddr, u16)> {
        let addresses = [
            "10.0.0.1",
            "10.2.0.1",
            "11.0.0.1",
            "0.0.0.0",
            "::",
            "::1",
            "2001:db8::1",
            "2001:db9::1",
            "9000::",
        ];
        let addresses = addresses.map(|text| text.parse().unwrap());
        let port = prop_oneof![0..6u16, 65_530..=65_535u16];
        (prop::sample::select(addresses.to_vec()), port)
    }

    proptest! {
        #[test]
        fn the_kernel_judges_as_the_condition_says(
            condition in any_condition(),
            local in any_end(),
            remote in any_end(),
            is_inet6: bool,
        ) {
            let entry = Entry::new(local, remote, is_inet6);
            let expected = condition.holds(local, remote);
            match compile(&condition) {
                Some(program) => prop_assert_eq!(run(&program, &entry), expected),
                None => prop_assert!(expected),
            }
        }
    }
}
