use std::collections::VecDeque;

use tcpstate_common::State;
use tcpstate_core::expression::{Expression, NoNames, Side};

use super::{
    testing::{answer, framed},
    *,
};

const SOCKET: u16 = 20;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const INTERRUPTED: u16 = 0x10;

/// A message: its type, its flags and its payload.
type Part = (u16, u16, Vec<u8>);

/// The result of one receive: messages, or an errno.
type Answer = Result<Vec<Part>, i32>;

/// A kernel that follows a script.
#[derive(Default)]
struct Fake {
    script: VecDeque<Vec<Answer>>,
    now: VecDeque<Answer>,
    sequence: u32,
    families: Vec<u8>,
    lengths: Vec<usize>,
    reopened: u32,
}

impl Fake {
    fn new(script: impl IntoIterator<Item = Vec<Answer>>) -> Self {
        Self {
            script: script.into_iter().collect(),
            ..Self::default()
        }
    }

    fn dump(&mut self, request: Request<'_>) -> (Result<DumpStats, DumpError>, Vec<u64>) {
        let mut sockets = Vec::new();
        let mut buffer = [0; 4096];
        let dump = Dumper {
            link: self,
            sequence: &mut 0,
            buffer: &mut buffer,
        }
        .append(1, request, &mut sockets);
        assert!(dump.is_ok() || sockets.is_empty());
        (dump, sockets.iter().map(|socket| socket.cookie).collect())
    }
}

impl Link for Fake {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sequence = u32::from_ne_bytes(bytes[8..12].try_into().unwrap());
        self.families.push(bytes[16]);
        self.lengths.push(bytes.len());
        self.now = self
            .script
            .pop_front()
            .expect("more requests than the script has")
            .into();
        Ok(())
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let answer = self.now.pop_front().unwrap_or(Err(libc::EAGAIN));
        let bytes: Vec<u8> = answer
            .map_err(io::Error::from_raw_os_error)?
            .into_iter()
            .flat_map(|(kind, flags, payload)| framed(kind, flags, self.sequence, &payload))
            .collect();
        buffer[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn reopen(&mut self) -> Result<(), DumpError> {
        self.reopened += 1;
        Ok(())
    }
}

fn socket(cookie: u8) -> Part {
    let mut bytes = answer();
    bytes[44..52].fill(0);
    bytes[44..48].copy_from_slice(&u32::from(cookie).to_ne_bytes());
    (SOCKET, 2, bytes)
}

fn done() -> Part {
    (DONE, 2, 0i32.to_ne_bytes().into())
}

fn error(errno: i32) -> Part {
    (ERROR, 0, (-errno).to_ne_bytes().into())
}

fn interrupted((kind, flags, payload): Part) -> Part {
    (kind, flags | INTERRUPTED, payload)
}

const V6: Request<'static> = Request {
    ipv6_only: true,
    ..Request::of(StateSet::ALL)
};

#[test]
fn both_families_are_dumped_at_once_and_a_dump_can_come_in_parts() {
    let mut fake = Fake::new([vec![
        Ok(vec![socket(1), socket(2)]),
        Ok(vec![socket(3)]),
        Ok(vec![socket(4), done()]),
    ]]);
    let request = Request {
        ipv6_only: false,
        ..V6
    };
    let (dump, cookies) = fake.dump(request);
    assert_eq!(cookies, [1, 2, 3, 4]);
    assert_eq!(fake.families, [0]);
    assert_eq!(
        dump.unwrap(),
        DumpStats {
            answers: 4,
            ..DumpStats::default()
        }
    );
}

#[test]
fn an_inconsistent_dump_is_repeated() {
    let mut fake = Fake::new([
        // Wherever the kernel says so: at a socket, or only at the end.
        vec![Ok(vec![interrupted(socket(1)), socket(9), done()])],
        vec![Ok(vec![socket(2), interrupted(done())])],
        vec![Ok(vec![socket(3), done()])],
    ]);
    let (dump, cookies) = fake.dump(V6);
    assert_eq!(cookies, [3]);
    let dump = dump.unwrap();
    assert_eq!(
        (dump.repeats, dump.answers, dump.inconsistent),
        (2, 1, false)
    );
    // The conversation itself is in order.
    assert_eq!(fake.reopened, 0);
}

#[test]
fn a_dump_that_stays_inconsistent_is_taken_and_marked() {
    let mut fake = Fake::new((0..ATTEMPTS).map(|_| vec![Ok(vec![socket(1), interrupted(done())])]));
    let (dump, cookies) = fake.dump(V6);
    assert_eq!(cookies, [1]);
    let dump = dump.unwrap();
    assert!(dump.inconsistent);
    assert_eq!(dump.repeats, ATTEMPTS - 1);
}

#[test]
fn a_dump_that_breaks_off_is_repeated_on_a_new_link() {
    for broken in [
        vec![Ok(vec![socket(1)]), Err(libc::ENOBUFS)],
        vec![Ok(vec![socket(1)]), Err(libc::EAGAIN)],
        vec![Ok(vec![socket(1)]), Ok(vec![(4, 0, vec![])])],
        vec![Ok(vec![socket(1)]), Ok(vec![])],
        vec![Ok(vec![socket(1)]), Ok(vec![(DONE, 0, vec![1])])],
        vec![Ok(vec![socket(1), error(libc::ENOBUFS)])],
        vec![Ok(vec![error(libc::EBUSY)])],
        vec![Ok(vec![(DONE, 0, (-libc::ENOMEM).to_ne_bytes().into())])],
    ] {
        let mut fake = Fake::new([broken, vec![Ok(vec![socket(2), done()])]]);
        let (dump, cookies) = fake.dump(V6);
        assert_eq!(cookies, [2]);
        assert_eq!(dump.unwrap().repeats, 1);
        assert_eq!(fake.reopened, 1);
    }
}

#[test]
fn the_attempts_are_bounded() {
    let broken = || vec![Ok(vec![socket(1)]), Err(libc::ENOBUFS)];
    let mut fake = Fake::new((0..ATTEMPTS).map(|_| broken()));
    let (dump, _) = fake.dump(V6);
    assert!(matches!(dump, Err(DumpError::BrokenOff)), "{dump:?}");
}

#[test]
fn an_error_of_the_kernel_is_returned() {
    for errno in [libc::ENOENT, libc::EOPNOTSUPP] {
        let (dump, _) = Fake::new([vec![Ok(vec![error(errno)])]]).dump(V6);
        assert!(matches!(dump, Err(DumpError::NoSockDiag(_))), "{dump:?}");
    }
    let (dump, _) = Fake::new([vec![Ok(vec![socket(1), error(libc::EPERM)])]]).dump(V6);
    assert!(matches!(dump, Err(DumpError::Refused(_))), "{dump:?}");
    let (dump, _) = Fake::new([vec![Err(libc::EBADF)]]).dump(V6);
    assert!(matches!(dump, Err(DumpError::Link { .. })), "{dump:?}");
}

#[test]
fn malformed_entries_are_counted() {
    let mut fake = Fake::new([vec![Ok(vec![
        socket(1),
        (SOCKET, 2, vec![0; 72]),
        (SOCKET, 2, vec![2; 71]),
        done(),
    ])]]);
    let (dump, cookies) = fake.dump(V6);
    assert_eq!(cookies, [1]);
    let dump = dump.unwrap();
    assert_eq!((dump.answers, dump.malformed), (3, 2));
}

#[test]
fn answers_to_another_request_are_ignored() {
    struct Stale(Fake);
    impl Link for Stale {
        fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.0.send(bytes)
        }
        fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let stale = framed(SOCKET, 2, u32::MAX, &answer());
            let end = framed(DONE, 2, u32::MAX, &0i32.to_ne_bytes());
            let length = self.0.receive(&mut buffer[stale.len() + end.len()..])?;
            let (first, second) = buffer.split_at_mut(stale.len());
            first.copy_from_slice(&stale);
            second[..end.len()].copy_from_slice(&end);
            Ok(stale.len() + end.len() + length)
        }
        fn reopen(&mut self) -> Result<(), DumpError> {
            self.0.reopen()
        }
    }
    let mut sockets = Vec::new();
    let dump = Dumper {
        link: &mut Stale(Fake::new([vec![Ok(vec![socket(1), done()])]])),
        sequence: &mut 0,
        buffer: &mut [0; 4096],
    }
    .append(1, V6, &mut sockets);
    assert_eq!((dump.unwrap().answers, sockets.len()), (1, 1));
}

#[test]
fn the_newest_entry_of_a_cookie_is_kept() {
    let make = |cookie, state| {
        let (_, _, bytes) = socket(cookie);
        Socket {
            state,
            ..wire::socket(&bytes, 1).unwrap()
        }
    };
    let mut sockets = vec![
        make(1, State::SYN_RECV),
        make(2, State::LISTEN),
        make(1, State::ESTABLISHED),
        make(3, State::FIN_WAIT2),
        make(3, State::TIME_WAIT),
        make(4, State::LISTEN),
        make(1, State::CLOSE_WAIT),
    ];
    tcpstate_core::inventory::keep_latest(&mut sockets);
    let left: Vec<_> = sockets.iter().map(|one| (one.cookie, one.state)).collect();
    assert_eq!(
        left,
        [
            (1, State::CLOSE_WAIT),
            (2, State::LISTEN),
            (3, State::TIME_WAIT),
            (4, State::LISTEN)
        ]
    );
}

#[test]
fn requested_states_are_the_kernels_bits() {
    let bits = |list: &str| Request::of(list.parse().unwrap()).states.bits();
    assert_eq!(bits("listen"), 1 << 10);
    assert_eq!(bits("syn-recv"), 1 << 3 | 1 << 12);
    assert_eq!(bits("close"), 1 << 7 | 1 << 13);
    assert_eq!(bits("all"), u32::MAX);
    assert_eq!(bits("big"), 0x2FB6);
}

#[test]
fn a_dump_of_the_kernel_has_our_own_listener() {
    let listener = std::net::TcpListener::bind("[::1]:0").unwrap();
    let local = listener.local_addr().unwrap();
    let mut link = SockDiag::open(Namespace::own().unwrap()).unwrap();
    for with_more in [false, true] {
        let mut sockets = Vec::new();
        let request = Request {
            states: StateMask::of("listen".parse().unwrap()),
            with_info: with_more,
            with_drops: with_more,
            ..V6
        };
        let dump = link.dump(request, &mut sockets).unwrap();
        assert_eq!(dump.malformed, 0);
        let ours: Vec<_> = sockets
            .iter()
            .filter(|one| (one.laddr, one.lport) == (local.ip(), local.port()))
            .collect();
        assert_eq!(ours.len(), 1, "{sockets:?}");
        assert_eq!(ours[0].state, State::LISTEN);
        assert_eq!(ours[0].netns, link.namespace().inode());
        assert!(ours[0].inode.is_some() && ours[0].uid.is_some());
        assert_eq!(ours[0].info.is_some(), with_more);
        assert_eq!(ours[0].drops, with_more.then_some(0));
    }
}

/// Each is listed once, and only listeners with what they have dropped.
#[test]
fn drops_take_a_request_of_their_own() {
    let parts = |request: Request<'_>| -> Vec<(u32, bool, bool)> {
        let parts = request.parts();
        parts
            .map(|part| (part.states.bits(), part.with_info, part.with_drops))
            .collect()
    };
    let listen = 1 << 10;
    let all = Request::of(StateSet::ALL).with_info();
    assert_eq!(parts(all), [(u32::MAX, true, false)]);
    assert_eq!(
        parts(all.with_drops()),
        [(listen, true, true), (!listen, true, false)]
    );
    let of = |list: &str| parts(Request::of(list.parse().unwrap()).with_drops());
    assert_eq!(of("listen"), [(listen, false, true)]);
    assert_eq!(of("established"), [(1 << 1, false, false)]);
}

#[test]
fn a_kernel_that_refuses_the_condition_is_asked_for_all_sockets() {
    let invalid = || vec![Ok(vec![error(libc::EINVAL)])];
    let all = |cookies: [u8; 2]| {
        vec![Ok(cookies
            .map(socket)
            .into_iter()
            .chain([done()])
            .collect())]
    };
    let ends = EndCondition::Port(Side::Local, 80..=80);
    let request = Request {
        ends: Some(&ends),
        ..Request::of(StateSet::ALL)
    };
    // It is asked once.
    let mut fake = Fake::new([invalid(), all([1, 2]), all([3, 4])]);
    let (dump, cookies) = fake.dump(request.with_drops());
    assert_eq!(cookies, [1, 2, 3, 4]);
    assert_eq!(dump.unwrap().answers, 4);
    assert_eq!(fake.lengths, [76 + 4 + 16, 76, 76]);
    // Without a condition, there is nothing that it may do without.
    let (dump, _) = Fake::new([invalid()]).dump(Request::of(StateSet::ALL));
    assert!(matches!(dump, Err(DumpError::Refused(_))), "{dump:?}");
}

/// No operation has this number.
#[test]
fn a_condition_that_the_kernel_does_not_know_is_invalid() {
    let mut link = SockDiag::open(Namespace::own().unwrap()).unwrap();
    let mut sockets = Vec::new();
    let mut sink = Append {
        sockets: &mut sockets,
        start: 0,
        netns: 1,
    };
    let query = Query {
        request: V6,
        program: Some(&[99, 4, 8, 0]),
    };
    let error = link.dumper().dump(query, &mut sink).unwrap_err();
    assert!(error.is_invalid(), "{error:?}");
}

/// Every kind of condition passes the kernel's check, and keeps the sockets that it describes.
#[test]
fn the_kernel_leaves_out_other_sockets() {
    let listeners = ["[::1]:0", "127.0.0.1:0"].map(|at| std::net::TcpListener::bind(at).unwrap());
    let [v6, v4] = listeners.each_ref().map(|one| one.local_addr().unwrap());
    let mut link = SockDiag::open(Namespace::own().unwrap()).unwrap();
    let (port6, port4) = (v6.port(), v4.port());
    for (text, expected) in [
        (format!("src {v6}"), [true, false]),
        (
            format!("src 127.0.0.0/8 sport {port4},{port6}"),
            [false, true],
        ),
        (format!("family ipv6 sport {port4},{port6}"), [true, false]),
        (
            format!("not src [::]/0 ( sport {port4} or sport {port6} )"),
            [false, true],
        ),
        (
            format!("not src {v6} sport >= {port6} sport <= {port6}"),
            [false, false],
        ),
        (
            format!(
                "sport {port4}-{port4} not ( sport < {port4} or sport > {port4} or dst 10.0.0.1 )"
            ),
            [false, true],
        ),
        ("exclude all not src *".to_owned(), [false, false]),
    ] {
        let expression = Expression::parse(&text, &NoNames).unwrap();
        // Here the condition shall decide on listeners too.
        let listeners = EndCondition::Port(Side::Remote, 0..=0);
        let states = StateSet::of(State::LISTEN);
        let ends = match expression.for_dump(Some(states)).ends {
            EndCondition::Any(ends) => {
                EndCondition::Any(ends.into_iter().filter(|one| *one != listeners).collect())
            }
            ends => {
                assert_eq!(ends, listeners, "{text}");
                EndCondition::NEVER
            }
        };
        let request = Request {
            ends: Some(&ends),
            ..Request::of(states)
        };
        let mut sockets = Vec::new();
        link.dump(request, &mut sockets).unwrap();
        let found = [v6, v4].map(|end| {
            let mut all = sockets.iter();
            all.any(|one| (one.laddr, one.lport) == (end.ip(), end.port()))
        });
        assert_eq!(found, expected, "{text}");
        let others = sockets
            .iter()
            .filter(|one| ![port4, port6].contains(&one.lport));
        assert_eq!(others.count(), 0, "{text}");
    }
}

/// Sends to a netlink socket what only the kernel should.
fn forge(to: &OwnedFd) -> rustix::io::Result<usize> {
    let to = rustix::net::getsockname(to)?;
    let forger = connected()?;
    let message = framed(DONE, 0, 1, &[0; 4]);
    rustix::net::sendto(&forger, &message, SendFlags::empty(), &to)
}

#[test]
fn only_the_kernel_is_heard() {
    let socket = connected().unwrap();
    // An ordinary user may not send to others in this namespace at all.
    let errno = forge(&socket).unwrap_err();
    assert!(
        matches!(
            errno,
            rustix::io::Errno::CONNREFUSED | rustix::io::Errno::PERM
        ),
        "{errno}"
    );
    let held = rustix::net::recv(&socket, &mut [0; 64], RecvFlags::DONTWAIT);
    assert_eq!(held.unwrap_err(), rustix::io::Errno::AGAIN);
}

#[test]
fn a_message_of_another_socket_is_dropped() {
    let open = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    );
    let mut link = Netlink {
        socket: open.unwrap(),
        namespace: Namespace::own().unwrap(),
    };
    rustix::net::bind(&link.socket, &SocketAddrNetlink::new(0, 0)).unwrap();
    // As root it arrives, for this socket is not connected.
    let _ = forge(&link.socket);
    let error = link.receive(&mut [0; 64]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}
