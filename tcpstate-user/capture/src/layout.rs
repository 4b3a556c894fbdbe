//! The kernel's layouts of everything that the BPF programs read.
//!
//! Two layouts, for the two attach modes: the offsets inside `struct sock` and its kin, from the
//! kernel's BTF, and the classic tracepoint's record, from its `format` file. A layout that the
//! programs would misread is refused by name; nothing is guessed.
//!
//! Pure: BTF and text come in as arguments; `host` reads them.

pub mod format;

use btf_rs::{Btf, BtfType, Type};
use tcpstate_common::config::{Offsets, TP_BASE, TP_BASE_LAZY};
use tcpstate_core::cause;

/// Result of [`resolve_offsets`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says of one thing whether the kernel has it"
)]
pub struct Resolved {
    /// The offsets.
    pub offsets: Offsets,
    /// A tracing program may call `bpf_get_socket_cookie`. *Since:* Linux 5.12.
    pub has_cookie: bool,
    /// `bpf_get_current_task_btf` exists. *Since:* Linux 5.11.
    pub has_task_btf: bool,
    /// A socket points at its cgroup; if not, the offsets on that path are 0.
    /// *Since:* Linux 5.15.
    pub has_cgroup: bool,
    /// The kernel counts runs that a classic tracepoint skips because a program runs on that CPU already.
    /// *Since:* Linux 6.7.
    pub counts_skipped: bool,
    /// The kernel says why it sends a RST: the code of each reason ([`cause::reset_code`]), by the kernel's
    /// number. *Since:* Linux 6.10.
    pub reset_codes: Option<ResetCodes>,
}

/// Codes of the reasons for a RST by the kernel's number; 0: not known here.
pub type ResetCodes = [u8; 64];

/// Why the BPF programs cannot read the kernel's layout.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The BTF itself is broken.
    #[error("cannot read `{what}` in the kernel's BTF: {source}")]
    Btf {
        /// The type that was being looked at.
        what: String,
        /// The parser's error.
        source: btf_rs::Error,
    },
    /// A structure is not in the BTF.
    #[error(
        "the kernel's BTF has no `struct {structure}`; this kernel cannot be traced with --attach btf"
    )]
    NoStruct {
        /// Its name.
        structure: &'static str,
    },
    /// A structure has no such member.
    #[error("the kernel's `struct {structure}` has no member `{member}`; try --attach tracepoint")]
    NoMember {
        /// The structure.
        structure: &'static str,
        /// Path of the member inside it.
        member: &'static str,
    },
    /// A member does not have the shape that the programs load.
    #[error(
        "the kernel's `struct {structure}` has `{member}` as {found}, expected {expected}; try --attach tracepoint"
    )]
    Member {
        /// The structure.
        structure: &'static str,
        /// Path of the member inside it.
        member: &'static str,
        /// Its shape.
        found: Shape,
        /// The shape that the programs load.
        expected: Shape,
    },
    /// The BTF has several structures of that name, and they differ in this member.
    #[error(
        "the kernel's BTF has more than one `struct {structure}`, and they differ in `{member}`; try --attach tracepoint"
    )]
    Ambiguous {
        /// The structure.
        structure: &'static str,
        /// Path of the member inside it.
        member: &'static str,
    },
    /// A field of the tracepoint's record is missing.
    #[error(
        "the record of the tracepoint sock:inet_sock_set_state has no field `{field}`; try --attach btf"
    )]
    NoField {
        /// Its name.
        field: &'static str,
    },
    /// A field of the tracepoint's record cannot be understood.
    #[error(
        "the field `{field}` of the tracepoint sock:inet_sock_set_state is described as {line:?}, without an offset and a size; try --attach btf"
    )]
    FieldUnreadable {
        /// Its name.
        field: &'static str,
        /// Its line, cut to 120 characters.
        line: String,
    },
    /// The tracepoint's record does not begin where it should.
    #[error(
        "the record of the tracepoint sock:inet_sock_set_state has `skaddr` at offset {found}, expected {TP_BASE} or {TP_BASE_LAZY}; try --attach btf"
    )]
    Base {
        /// Its offset.
        found: u32,
    },
    /// A field of the tracepoint's record has another place or size than the programs read.
    #[error(
        "the record of the tracepoint sock:inet_sock_set_state has `{field}` with {} byte(s) at offset {}, \
         expected {} at {} (before Linux 5.6 the layout was another); try --attach btf",
        .found.size, .found.offset, .expected.size, .expected.offset
    )]
    Field {
        /// Its name.
        field: &'static str,
        /// Its place in the kernel's record.
        found: Place,
        /// The place that the programs read.
        expected: Place,
    },
}

/// The shape of a member of a structure, as far as a load is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// This many bytes.
    Bytes(usize),
    /// This many bits of a bit field.
    Bits(u32),
    /// A pointer.
    Pointer,
    /// Anything without a size.
    Other(&'static str),
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(1) => f.write_str("1 byte"),
            Self::Bytes(bytes) => write!(f, "{bytes} bytes"),
            Self::Bits(bits) => write!(f, "a bit field ({bits} wide)"),
            Self::Pointer => f.write_str("a pointer"),
            Self::Other(kind) => write!(f, "something else ({kind})"),
        }
    }
}

/// Offset and size of a field in the tracepoint's record, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// From the start of the record.
    pub offset: u32,
    /// Its size.
    pub size: u32,
}

/// Finds the offsets of everything that the BTF tracepoint program reads, and the helpers that it may call.
///
/// *Errors:* a structure or member is missing, ambiguous, or not of the size that is loaded.
pub fn resolve_offsets(btf: &Btf) -> Result<Resolved, LayoutError> {
    let sock = Structure::find(btf, "sock")?;
    let tcp_sock = Structure::find(btf, "tcp_sock")?;
    let net = Structure::find(btf, "net")?;
    let task = Structure::find(btf, "task_struct")?;
    let (two, four, eight) = (Shape::Bytes(2), Shape::Bytes(4), Shape::Bytes(8));
    let (comm, in6_addr) = (Shape::Bytes(16), Shape::Bytes(16));

    let mut offsets = Offsets {
        sk_family: sock.at("__sk_common.skc_family", two)?,
        sk_state: sock.at("__sk_common.skc_state", Shape::Bytes(1))?,
        sk_num: sock.at("__sk_common.skc_num", two)?,
        sk_dport: sock.at("__sk_common.skc_dport", two)?,
        sk_daddr: sock.at("__sk_common.skc_daddr", four)?,
        sk_rcv_saddr: sock.at("__sk_common.skc_rcv_saddr", four)?,
        sk_v6_daddr: sock.at("__sk_common.skc_v6_daddr", in6_addr)?,
        sk_v6_rcv_saddr: sock.at("__sk_common.skc_v6_rcv_saddr", in6_addr)?,
        sk_net: sock.at("__sk_common.skc_net.net", Shape::Pointer)?,
        // Eight bits of a bit field before Linux 5.6.
        sk_protocol: sock.at("sk_protocol", two)?,
        sk_err: sock.at("sk_err", four)?,
        sk_err_soft: sock.at("sk_err_soft", four)?,
        sk_error_first: sock.at("sk_error_queue.next", Shape::Pointer)?,
        sk_error_qlen: sock.at("sk_error_queue.qlen", four)?,
        sk_shutdown: sock.at("sk_shutdown", Shape::Bytes(1))?,
        sk_flags: sock.at("__sk_common.skc_flags", eight)?,
        sk_uid: sock.at("sk_uid.val", four)?,
        sk_cookie: sock.at("__sk_common.skc_cookie.counter", eight)?,
        inet_sport: tcp_sock.at("inet_conn.icsk_inet.inet_sport", two)?,
        tcp_srtt_us: tcp_sock.at("srtt_us", four)?,
        tcp_bytes_sent: tcp_sock.at("bytes_sent", eight)?,
        tcp_bytes_received: tcp_sock.at("bytes_received", eight)?,
        tcp_total_retrans: tcp_sock.at("total_retrans", four)?,
        tcp_segs_out: tcp_sock.at("segs_out", four)?,
        tcp_write_seq: tcp_sock.at("write_seq", four)?,
        skb_errno: optional(skb_errno(btf))?.unwrap_or(0),
        net_inum: net.at("ns.inum", four)?,
        task_comm: task.at("comm", comm)?,
        task_tgid: task.at("tgid", four)?,
        task_flags: task.at("flags", four)?,
        task_group_leader: task.at("group_leader", Shape::Pointer)?,
        sk_cgroup: 0,
        cgroup_kn: 0,
        cgroup_parent: 0,
        css_cgroup: 0,
        kn_id: 0,
    };

    let cgroup = cgroup_offsets(btf, &sock)?;
    if let Some(cgroup) = cgroup {
        cgroup.put(&mut offsets);
    }
    Ok(Resolved {
        offsets,
        has_cookie: has_tracing_cookie(btf)?,
        has_task_btf: has_helper(btf, "BPF_FUNC_get_current_task_btf")?,
        has_cgroup: cgroup.is_some(),
        counts_skipped: counts_skipped(btf)?,
        reset_codes: reset_codes(btf)?,
    })
}

/// The codes of the reasons for a RST; `None` where the tracepoint does not give a reason.
///
/// The numbers differ from kernel to kernel, the names do not.
///
/// *Source:* `enum sk_rst_reason` in `include/net/rstreason.h`; the type of the functions that the tracepoint
/// `tcp_send_reset` calls. *Since:* Linux 6.10.
fn reset_codes(btf: &Btf) -> Result<Option<ResetCodes>, LayoutError> {
    /// The program's own argument, the socket, the packet, the reason.
    const WITH_REASON: usize = 4;
    const HANDLER: &str = "btf_trace_tcp_send_reset";
    const REASONS: &str = "sk_rst_reason";
    let broken = |what: &'static str| {
        move |source| LayoutError::Btf {
            what: what.to_owned(),
            source,
        }
    };
    let mut gives_reason = false;
    for ty in btf
        .resolve_types_by_name(HANDLER)
        .map_err(broken(HANDLER))?
    {
        if let Type::Typedef(handler) = ty
            && let Type::Ptr(pointer) = btf
                .resolve_chained_type(&handler)
                .map_err(broken(HANDLER))?
            && let Type::FuncProto(function) = btf
                .resolve_chained_type(&pointer)
                .map_err(broken(HANDLER))?
        {
            gives_reason = function.parameters.len() >= WITH_REASON;
        }
    }
    if !gives_reason {
        return Ok(None);
    }
    let mut codes = [0; 64];
    for ty in btf
        .resolve_types_by_name(REASONS)
        .map_err(broken(REASONS))?
    {
        let Type::Enum(reasons) = ty else { continue };
        for reason in &reasons.members {
            let name = btf.resolve_name(reason).map_err(broken(REASONS))?;
            let code = codes.get_mut(reason.val() as usize);
            if let (Some(code), Some(known)) = (code, cause::reset_code(&name)) {
                *code = known;
            }
        }
    }
    Ok(Some(codes))
}

/// The offset of the errno in a packet of a socket's error queue.
///
/// *Source:* `SKB_EXT_ERR` in `include/linux/errqueue.h`.
fn skb_errno(btf: &Btf) -> Result<u32, LayoutError> {
    let cb = Structure::find(btf, "sk_buff")?.at("cb", Shape::Bytes(48))?;
    let errno = Structure::find(btf, "sock_exterr_skb")?.at("ee.ee_errno", Shape::Bytes(4))?;
    Ok(cb.saturating_add(errno))
}

/// The offsets on the path from a socket to the ids of its cgroup and of those above.
#[derive(Clone, Copy)]
struct CgroupOffsets {
    sk_cgroup: u32,
    cgroup_kn: u32,
    cgroup_parent: u32,
    css_cgroup: u32,
    kn_id: u32,
}

impl CgroupOffsets {
    const fn put(self, offsets: &mut Offsets) {
        offsets.sk_cgroup = self.sk_cgroup;
        offsets.cgroup_kn = self.cgroup_kn;
        offsets.cgroup_parent = self.cgroup_parent;
        offsets.css_cgroup = self.css_cgroup;
        offsets.kn_id = self.kn_id;
    }
}

/// Finds the path to a socket's cgroup; `None` where a part of it is missing.
fn cgroup_offsets(btf: &Btf, sock: &Structure<'_>) -> Result<Option<CgroupOffsets>, LayoutError> {
    let find = || -> Result<CgroupOffsets, LayoutError> {
        let sk_cgroup = sock.at("sk_cgrp_data.cgroup", Shape::Pointer)?;
        let cgroup = Structure::find(btf, "cgroup")?;
        let css = Structure::find(btf, "cgroup_subsys_state")?;
        let node = Structure::find(btf, "kernfs_node")?;
        Ok(CgroupOffsets {
            sk_cgroup,
            cgroup_kn: cgroup.at("kn", Shape::Pointer)?,
            cgroup_parent: cgroup.at("self.parent", Shape::Pointer)?,
            css_cgroup: css.at("cgroup", Shape::Pointer)?,
            kn_id: node.at("id", Shape::Bytes(8))?,
        })
    };
    optional(find())
}

/// `None` for a layout that is missing or different; broken BTF remains an error.
fn optional<T>(found: Result<T, LayoutError>) -> Result<Option<T>, LayoutError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(broken @ LayoutError::Btf { .. }) => Err(broken),
        Err(_) => Ok(None),
    }
}

/// Whether tracing programs may call `bpf_get_socket_cookie`.
///
/// The helper's number is older than that, so its presence says nothing. The function that tracing
/// programs are given came with the permission.
///
/// *Source:* `bpf_get_socket_ptr_cookie` in `net/core/filter.c`, Linux commit c5dbb89fc2ac ("bpf: Expose
/// `bpf_get_socket_cookie` to tracing programs"). *Since:* Linux 5.12.
fn has_tracing_cookie(btf: &Btf) -> Result<bool, LayoutError> {
    // The typedef is for kernels whose BTF leaves the function out.
    for name in ["bpf_get_socket_ptr_cookie", "btf_bpf_get_socket_ptr_cookie"] {
        let ids = btf.resolve_ids_by_name(name);
        if !ids
            .map_err(|source| LayoutError::Btf {
                what: name.to_owned(),
                source,
            })?
            .is_empty()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the kernel counts the runs that a classic tracepoint skips.
///
/// The change itself adds no type, but another patch of its series does.
///
/// *Source:* `bpf_link_info` in `include/uapi/linux/bpf.h`, Linux commit e2b2cd592a7c ("bpf: Add missed value
/// to `kprobe_multi` link info"), beside dd8657894c11 ("bpf: Count missed stats in `trace_call_bpf`").
/// *Since:* Linux 6.7.
fn counts_skipped(btf: &Btf) -> Result<bool, LayoutError> {
    let info = Structure::find(btf, "bpf_link_info");
    let missed = info.and_then(|info| info.at("kprobe_multi.missed", Shape::Bytes(8)));
    Ok(optional(missed)?.is_some())
}

/// Whether the kernel has a helper: `name` as `enum bpf_func_id` spells it.
fn has_helper(btf: &Btf, name: &str) -> Result<bool, LayoutError> {
    let broken = |source| LayoutError::Btf {
        what: "enum bpf_func_id".to_owned(),
        source,
    };
    for ty in btf.resolve_types_by_name("bpf_func_id").map_err(broken)? {
        if let Type::Enum(helpers) = ty {
            for helper in &helpers.members {
                if btf.resolve_name(helper).map_err(broken)? == name {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}

/// All structures of one name. The BTF may have more than one, and they have to agree: the kernel chooses which of
/// them is the type of a program's argument.
struct Structure<'a> {
    btf: &'a Btf,
    name: &'static str,
    types: Vec<Type>,
}

impl<'a> Structure<'a> {
    /// One pass over all names of the BTF.
    fn find(btf: &'a Btf, name: &'static str) -> Result<Self, LayoutError> {
        let broken = |source| LayoutError::Btf {
            what: format!("struct {name}"),
            source,
        };
        let mut types = btf.resolve_types_by_name(name).map_err(broken)?;
        types.retain(|ty| matches!(ty, Type::Struct(_)));
        if types.is_empty() {
            return Err(LayoutError::NoStruct { structure: name });
        }
        Ok(Self { btf, name, types })
    }

    /// Byte offset of `member`: a path, its parts joined by dots.
    fn at(&self, member: &'static str, expected: Shape) -> Result<u32, LayoutError> {
        let structure = self.name;
        let broken = |source| LayoutError::Btf {
            what: format!("struct {structure}"),
            source,
        };
        let mut found = None;
        for ty in &self.types {
            let placed = follow(self.btf, ty, member)
                .map_err(broken)?
                .ok_or(LayoutError::NoMember { structure, member })?;
            if found
                .replace(placed)
                .is_some_and(|earlier| earlier != placed)
            {
                return Err(LayoutError::Ambiguous { structure, member });
            }
        }
        let (bit_offset, shape) = found.ok_or(LayoutError::NoStruct { structure })?;
        if shape == expected && bit_offset % 8 == 0 {
            Ok(bit_offset / 8)
        } else {
            Err(LayoutError::Member {
                structure,
                member,
                found: shape,
                expected,
            })
        }
    }
}

/// Follows a path of members: bit offset and shape of the last, `None` where one is missing.
fn follow(btf: &Btf, start: &Type, path: &str) -> Result<Option<(u32, Shape)>, btf_rs::Error> {
    let mut ty = start.clone();
    let mut bits = 0u32;
    let mut shape = Shape::Other("struct");
    for name in path.split('.') {
        let Some((offset, bitfield, member)) = find_member(btf, &ty, name, MAX_DEPTH)? else {
            return Ok(None);
        };
        bits = bits.saturating_add(offset);
        shape = match bitfield {
            0 => shape_of(btf, &member, MAX_DEPTH)?,
            width => Shape::Bits(width),
        };
        ty = member;
    }
    Ok(Some((bits, shape)))
}

/// More anonymous structures, qualifiers or array dimensions than any kernel nests. Ends a loop in
/// broken BTF.
const MAX_DEPTH: u32 = 16;

/// A member of a structure or union, or of the anonymous ones inside it: bit offset, width as a bit
/// field (0: it is none), and its type without qualifiers.
fn find_member(
    btf: &Btf,
    ty: &Type,
    name: &str,
    depth: u32,
) -> Result<Option<(u32, u32, Type)>, btf_rs::Error> {
    let (Type::Struct(structure) | Type::Union(structure)) = ty else {
        return Ok(None);
    };
    if depth == 0 {
        return Ok(None);
    }
    for member in &structure.members {
        let found = btf.resolve_name(member)?;
        if !found.is_empty() && found != name {
            continue;
        }
        let member_type = unqualified(btf, btf.resolve_chained_type(member)?)?;
        if !found.is_empty() {
            return Ok(Some((
                member.bit_offset(),
                member.bitfield_size().unwrap_or(0),
                member_type,
            )));
        }
        if let Some((offset, bitfield, inner)) = find_member(btf, &member_type, name, depth - 1)? {
            return Ok(Some((
                member.bit_offset().saturating_add(offset),
                bitfield,
                inner,
            )));
        }
    }
    Ok(None)
}

/// The type behind typedefs and qualifiers.
fn unqualified(btf: &Btf, mut ty: Type) -> Result<Type, btf_rs::Error> {
    for _ in 0..MAX_DEPTH {
        let next: &dyn BtfType = match &ty {
            Type::Typedef(ty) => ty,
            Type::Volatile(ty) | Type::Const(ty) | Type::Restrict(ty) => ty,
            Type::TypeTag(ty) => ty,
            _ => break,
        };
        ty = btf.resolve_chained_type(next)?;
    }
    Ok(ty)
}

/// The shape of a load of this type.
fn shape_of(btf: &Btf, ty: &Type, depth: u32) -> Result<Shape, btf_rs::Error> {
    Ok(match ty {
        Type::Int(int) => Shape::Bytes(int.size()),
        Type::Enum(number) => Shape::Bytes(number.size()),
        Type::Struct(structure) | Type::Union(structure) => Shape::Bytes(structure.size()),
        Type::Ptr(_) => Shape::Pointer,
        Type::Array(array) if depth > 0 => {
            let element = unqualified(btf, btf.resolve_chained_type(array)?)?;
            match shape_of(btf, &element, depth - 1)? {
                Shape::Bytes(bytes) => Shape::Bytes(bytes.saturating_mul(array.len())),
                _ => Shape::Other("array"),
            }
        }
        other => Shape::Other(other.name()),
    })
}

#[cfg(test)]
mod tests;
