//! The defects of a release binary, read from its ELF file.
//!
//! The compiler's defaults give a binary without these defects. But defaults change, and flags in the
//! environment change them silently: so the built file is checked.

use anyhow::{Context as _, Result};
use object::{
    Endianness, elf,
    read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _, SectionHeader as _},
};

type Header = elf::FileHeader64<Endianness>;

/// Lists the defects of a binary for this machine (`EM_*`). A binary without defects may be released.
///
/// *Errors:* the file is not a 64-bit ELF file, or is damaged.
pub fn defects(file: &[u8], machine: u16) -> Result<Vec<&'static str>> {
    let header = Header::parse(file).context("not a 64-bit ELF file")?;
    let endian = header.endian()?;
    let segments = header.program_headers(endian, file)?;
    let flags_of = |kind| {
        let mut found = segments.iter().filter(|it| it.p_type(endian) == kind);
        found.next().map(|segment| segment.p_flags(endian))
    };
    let writable_code = segments.iter().any(|segment| {
        let both = elf::PF_W | elf::PF_X;
        segment.p_type(endian) == elf::PT_LOAD && segment.p_flags(endian) & both == both
    });
    let mut dynamic = &[][..];
    for segment in segments {
        dynamic = segment.dynamic(endian, file)?.unwrap_or(dynamic);
    }
    let value_of = |tag| {
        let mut found = dynamic.iter().filter(|it| it.d_tag(endian) == tag);
        found.next().map(|entry| entry.d_val(endian))
    };
    let is_set = |tag, flag: u32| value_of(tag).is_some_and(|flags| flags & u64::from(flag) != 0);
    let sections = header.sections(endian, file)?;
    let has_symbols = sections
        .iter()
        .any(|it| it.sh_type(endian) == elf::SHT_SYMTAB);
    let has_debug_info = sections.iter().any(|section| {
        let name = sections.section_name(endian, section);
        name.is_ok_and(|name| name.starts_with(b".debug") || name.starts_with(b".zdebug"))
    });

    let checks = [
        (
            header.e_machine(endian) != machine,
            "it is for another kind of machine",
        ),
        (
            header.e_type(endian) != elf::ET_DYN || !is_set(elf::DT_FLAGS_1, elf::DF_1_PIE),
            "it is not position-independent: it is always loaded at the same address",
        ),
        (
            flags_of(elf::PT_INTERP).is_some() || value_of(elf::DT_NEEDED).is_some(),
            "it is not static: it asks for a loader, or for libraries",
        ),
        (
            flags_of(elf::PT_GNU_RELRO).is_none(),
            "what only the loader may write stays writable (no PT_GNU_RELRO)",
        ),
        (
            !is_set(elf::DT_FLAGS, elf::DF_BIND_NOW) && !is_set(elf::DT_FLAGS_1, elf::DF_1_NOW),
            "symbols are bound late, so the table of functions stays writable (no BIND_NOW)",
        ),
        (
            flags_of(elf::PT_GNU_STACK).is_none_or(|flags| flags & elf::PF_X != 0),
            "its stack is executable",
        ),
        (writable_code, "it has code that is writable"),
        (
            value_of(elf::DT_TEXTREL).is_some() || is_set(elf::DT_FLAGS, elf::DF_TEXTREL),
            "its code is changed when it is loaded (TEXTREL)",
        ),
        (
            value_of(elf::DT_RPATH).is_some() || value_of(elf::DT_RUNPATH).is_some(),
            "it names folders to look for libraries in (RPATH)",
        ),
        (has_symbols || has_debug_info, "it is not stripped"),
    ];
    let found = checks.into_iter().filter(|&(is_defect, _)| is_defect);
    Ok(found.map(|(_, what)| what).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of a binary that are checked.
    #[derive(Clone)]
    struct Binary {
        kind: u16,
        machine: u16,
        /// Types and flags.
        segments: Vec<(u32, u32)>,
        /// Tags and values.
        dynamic: Vec<(i64, u64)>,
        /// Names and types.
        sections: Vec<(&'static str, u32)>,
    }

    impl Binary {
        fn hardened() -> Self {
            Self {
                kind: elf::ET_DYN,
                machine: elf::EM_X86_64,
                segments: vec![
                    (elf::PT_LOAD, elf::PF_R | elf::PF_X),
                    (elf::PT_LOAD, elf::PF_R | elf::PF_W),
                    (elf::PT_GNU_STACK, elf::PF_R | elf::PF_W),
                    (elf::PT_GNU_RELRO, elf::PF_R),
                ],
                dynamic: vec![
                    (elf::DT_FLAGS, elf::DF_BIND_NOW.into()),
                    (elf::DT_FLAGS_1, (elf::DF_1_NOW | elf::DF_1_PIE).into()),
                ],
                sections: vec![(".text", elf::SHT_PROGBITS)],
            }
        }

        fn without_segment(mut self, kind: u32) -> Self {
            self.segments.retain(|segment| segment.0 != kind);
            self
        }

        fn with_segment(mut self, kind: u32, flags: u32) -> Self {
            self.segments.push((kind, flags));
            self
        }

        fn with_dynamic(mut self, tag: i64, value: u64) -> Self {
            self.dynamic.retain(|entry| entry.0 != tag);
            self.dynamic.push((tag, value));
            self
        }

        fn with_section(mut self, name: &'static str, kind: u32) -> Self {
            self.sections.push((name, kind));
            self
        }

        /// The file: header, segments, the dynamic section, names of sections, sections.
        fn file(&self) -> Vec<u8> {
            let dynamic_at = 64 + 56 * (self.segments.len() as u64 + 1);
            let dynamic_size = 16 * self.dynamic.len() as u64;
            let names_at = dynamic_at + dynamic_size;
            let mut names = vec![0];
            let mut sections = vec![(0, elf::SHT_NULL)];
            for &(name, kind) in self.sections.iter().chain(&[(".names", elf::SHT_STRTAB)]) {
                sections.push((u32::try_from(names.len()).unwrap(), kind));
                names.extend(name.bytes().chain([0]));
            }
            names.resize(names.len().next_multiple_of(8), 0);
            let sections_at = names_at + names.len() as u64;
            let count = |length: usize| u16::try_from(length).unwrap().to_le_bytes();

            let mut file = b"\x7fELF\x02\x01\x01".to_vec();
            file.resize(16, 0);
            file.extend(self.kind.to_le_bytes());
            file.extend(self.machine.to_le_bytes());
            file.extend(1_u32.to_le_bytes());
            file.extend([0, 64, sections_at].map(u64::to_le_bytes).concat());
            file.extend(0_u32.to_le_bytes());
            file.extend([64_u16, 56].map(u16::to_le_bytes).concat());
            file.extend(count(self.segments.len() + 1));
            file.extend(64_u16.to_le_bytes());
            file.extend(count(sections.len()));
            file.extend(count(sections.len() - 1));
            let mut segment = |kind: u32, flags: u32, at: u64, size: u64| {
                file.extend([kind, flags].map(u32::to_le_bytes).concat());
                let places = [at, at, at, size, size, 8];
                file.extend(places.map(u64::to_le_bytes).concat());
            };
            segment(elf::PT_DYNAMIC, elf::PF_R, dynamic_at, dynamic_size);
            for &(kind, flags) in &self.segments {
                segment(kind, flags, 0, 0);
            }
            for &(tag, value) in &self.dynamic {
                file.extend(tag.to_le_bytes());
                file.extend(value.to_le_bytes());
            }
            file.extend(&names);
            for (name, kind) in sections {
                file.extend([name, kind].map(u32::to_le_bytes).concat());
                let place = match kind {
                    elf::SHT_STRTAB => [names_at, names.len() as u64],
                    _ => [0, 0],
                };
                let fields = [0, 0, place[0], place[1], 0, 0, 0];
                file.extend(fields.map(u64::to_le_bytes).concat());
            }
            file
        }

        fn defects(&self) -> Vec<&'static str> {
            defects(&self.file(), elf::EM_X86_64).unwrap()
        }
    }

    #[test]
    fn a_hardened_binary_has_no_defect() {
        assert_eq!(Binary::hardened().defects(), [""; 0]);
    }

    #[test]
    fn each_defect_is_found_alone() {
        let good = Binary::hardened;
        let now: u64 = elf::DF_1_NOW.into();
        let pie: u64 = elf::DF_1_PIE.into();
        let not_bound = good().with_dynamic(elf::DT_FLAGS, 0);
        let mut fixed = good();
        fixed.kind = elf::ET_EXEC;
        let mut foreign = good();
        foreign.machine = elf::EM_AARCH64;
        let cases = [
            (foreign, "another kind of machine"),
            (fixed, "not position-independent"),
            (
                good().with_dynamic(elf::DT_FLAGS_1, now),
                "not position-independent",
            ),
            (good().with_segment(elf::PT_INTERP, elf::PF_R), "not static"),
            (good().with_dynamic(elf::DT_NEEDED, 1), "not static"),
            (good().without_segment(elf::PT_GNU_RELRO), "PT_GNU_RELRO"),
            (not_bound.with_dynamic(elf::DT_FLAGS_1, pie), "BIND_NOW"),
            (
                good().without_segment(elf::PT_GNU_STACK),
                "stack is executable",
            ),
            (
                good()
                    .without_segment(elf::PT_GNU_STACK)
                    .with_segment(elf::PT_GNU_STACK, elf::PF_R | elf::PF_W | elf::PF_X),
                "stack is executable",
            ),
            (
                good().with_segment(elf::PT_LOAD, elf::PF_R | elf::PF_W | elf::PF_X),
                "code that is writable",
            ),
            (good().with_dynamic(elf::DT_TEXTREL, 0), "TEXTREL"),
            (good().with_dynamic(elf::DT_RPATH, 1), "RPATH"),
            (good().with_dynamic(elf::DT_RUNPATH, 1), "RPATH"),
            (
                good().with_section(".symtab", elf::SHT_SYMTAB),
                "not stripped",
            ),
            (
                good().with_section(".debug_line", elf::SHT_PROGBITS),
                "not stripped",
            ),
        ];
        for (binary, expected) in cases {
            let found = binary.defects();
            assert!(
                matches!(found[..], [only] if only.contains(expected)),
                "{found:?}, not only: {expected}"
            );
        }
    }

    #[test]
    fn both_flags_for_early_binding_are_accepted() {
        let flags = elf::DF_1_PIE.into();
        assert_eq!(
            Binary::hardened()
                .with_dynamic(elf::DT_FLAGS_1, flags)
                .defects(),
            [""; 0]
        );
        assert_eq!(
            Binary::hardened().with_dynamic(elf::DT_FLAGS, 0).defects(),
            [""; 0]
        );
    }

    #[test]
    fn a_debug_build_is_refused() {
        let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let found = defects(&file, elf::EM_X86_64).unwrap().join("\n");
        assert!(found.contains("not stripped"), "{found}");
    }

    #[test]
    fn a_file_that_is_no_binary_is_an_error() {
        let whole = Binary::hardened().file();
        assert!(defects(b"#!/bin/sh\n", elf::EM_X86_64).is_err());
        for end in 0..whole.len() {
            // A truncated file is refused or has a defect.
            let result = defects(&whole[..end], elf::EM_X86_64);
            assert!(
                result.is_err() || result.is_ok_and(|found| !found.is_empty()),
                "{end}"
            );
        }
    }
}
