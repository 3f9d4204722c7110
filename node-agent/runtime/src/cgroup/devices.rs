//! The guard of devices on v2, where no controller does it: a program the kernel runs at each use of a device.
//!
//! ```text
//! r2 = type (1 block, 2 character), r3 = access (1 mknod, 2 read, 4 write), r4 = major, r5 = minor
//! for each rule, the last one first: does it match? → allow or refuse
//! no rule matched → refuse
//! ```
//! As on v1 the last rule that matches decides. A rule that allows matches a use whose accesses it covers all; one that
//! refuses matches a use of which it covers any.

use std::fs::File;
use std::os::fd::AsFd;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::{DEFAULT_DEVICES, Directory, STEP};
use crate::failure::{Context, Result};
use crate::sys::bpf::{self, Instruction};

const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;

/// One rule, as the program compares it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Rule {
    is_allowed: bool,
    kind: Option<u32>,
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

/// Guards `directory` by `rules` and the devices every container has, in place of whatever guarded it before.
pub(super) fn guard(directory: &Directory, rules: &[LinuxDeviceCgroup]) -> Result<()> {
    let tried = || format!("guard the devices of {}", directory.path.display());
    let all: Vec<Rule> = rules.iter().map(Rule::of).chain(defaults()).collect();
    let program = bpf::load(&compile(&all))
        .step(STEP, tried)
        .map_err(|failure| failure.advise("it needs CONFIG_CGROUP_BPF and CAP_BPF or CAP_SYS_ADMIN"))?;
    let group = File::open(&directory.path).step(STEP, tried)?;
    let before = bpf::attached(group.as_fd()).step(STEP, tried)?;
    // The new one before the old ones go, so that there is no moment without: every program has to allow.
    bpf::attach(group.as_fd(), program.as_fd()).step(STEP, tried)?;
    before
        .iter()
        .try_for_each(|old| bpf::detach(group.as_fd(), old.as_fd()))
        .step(STEP, tried)
}

/// Whether this host can guard devices this way, found out by loading the smallest program.
pub(super) fn is_possible() -> bool {
    bpf::load(&compile(&[])).is_ok()
}

impl Rule {
    fn of(rule: &LinuxDeviceCgroup) -> Self {
        let number = |value: Option<i64>| value.and_then(|value| u32::try_from(value).ok());
        let kind = match rule.typ() {
            Some(LinuxDeviceType::B) => Some(BLOCK),
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(CHARACTER),
            Some(LinuxDeviceType::A | LinuxDeviceType::P) | None => None,
        };
        Self {
            is_allowed: rule.allow(),
            kind,
            major: number(rule.major()),
            minor: number(rule.minor()),
            access: access(rule.access().as_deref().unwrap_or("rwm")),
        }
    }
}

/// [`DEFAULT_DEVICES`], which v1 takes as text.
fn defaults() -> impl Iterator<Item = Rule> {
    DEFAULT_DEVICES.iter().map(|line| {
        let mut words = line.split([' ', ':']);
        let mut next = || words.next().unwrap_or_default();
        let kind = if next() == "b" { BLOCK } else { CHARACTER };
        Rule {
            is_allowed: true,
            kind: Some(kind),
            major: next().parse().ok(),
            minor: next().parse().ok(),
            access: access(next()),
        }
    })
}

fn access(text: &str) -> u32 {
    text.chars().fold(0, |all, letter| {
        all | match letter {
            'm' => 1,
            'r' => 2,
            'w' => 4,
            _ => 0,
        }
    })
}

fn compile(rules: &[Rule]) -> Vec<Instruction> {
    const LOAD_WORD: u8 = 0x61;
    let load = |to: u8, offset: i16| Instruction {
        code: LOAD_WORD,
        // From the context, which is in r1.
        registers: 1 << 4 | to,
        offset,
        immediate: 0,
    };
    let mut code = vec![load(2, 0)];
    // The first word of the context holds the access in its high half and the type in its low half.
    code.extend([
        copy(3, 2),
        immediate(ALU32_RSH, 3, 16),
        immediate(ALU32_AND, 2, 0xffff),
    ]);
    code.extend([load(4, 4), load(5, 8)]);
    for rule in rules.iter().rev() {
        let tests = matching(rule);
        let is_always = tests.len() == verdict(false).len();
        code.extend(tests);
        if is_always {
            // The kernel refuses instructions that nothing leads to.
            return code;
        }
    }
    code.extend(verdict(false));
    code
}

const ALU32_AND: u8 = 0x54;
const ALU32_RSH: u8 = 0x74;
const ALU32_MOV: u8 = 0xb4;
const ALU32_MOV_REGISTER: u8 = 0xbc;
const JUMP32_NOT_EQUAL: u8 = 0x56;
const JUMP32_EQUAL: u8 = 0x16;
const EXIT: u8 = 0x95;

fn immediate(code: u8, to: u8, value: u32) -> Instruction {
    Instruction {
        code,
        registers: to,
        offset: 0,
        immediate: value.cast_signed(),
    }
}

fn copy(to: u8, from: u8) -> Instruction {
    Instruction {
        code: ALU32_MOV_REGISTER,
        registers: from << 4 | to,
        ..Instruction::default()
    }
}

fn verdict(is_allowed: bool) -> [Instruction; 2] {
    [
        immediate(ALU32_MOV, 0, u32::from(is_allowed)),
        immediate(EXIT, 0, 0),
    ]
}

/// The tests of one rule, each of which skips the rest when it does not hold, and its verdict.
fn matching(rule: &Rule) -> Vec<Instruction> {
    let mut tests = Vec::new();
    for (register, wanted) in [(2, rule.kind), (4, rule.major), (5, rule.minor)] {
        if let Some(wanted) = wanted {
            tests.push(immediate(JUMP32_NOT_EQUAL, register, wanted));
        }
    }
    if rule.access & 7 != 7 {
        let (mask, jump) = if rule.is_allowed {
            // Anything beyond what is allowed?
            (!rule.access & 7, JUMP32_NOT_EQUAL)
        } else {
            // Nothing of what is refused?
            (rule.access, JUMP32_EQUAL)
        };
        tests.extend([copy(1, 3), immediate(ALU32_AND, 1, mask), immediate(jump, 1, 0)]);
    }
    tests.extend(verdict(rule.is_allowed));
    let length = tests.len();
    for (at, test) in tests.iter_mut().enumerate() {
        if matches!(test.code, JUMP32_NOT_EQUAL | JUMP32_EQUAL) {
            // Jumps count from the instruction after them.
            test.offset = i16::try_from(length - at - 1).unwrap_or(i16::MAX);
        }
    }
    tests
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would; knows the instructions that [`compile`] makes.
    fn decide(program: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0u32; 6];
        let mut at = 0;
        loop {
            let one = program[at];
            let (to, from) = ((one.registers & 15) as usize, (one.registers >> 4) as usize);
            let value = one.immediate.cast_unsigned();
            at += 1;
            match one.code {
                0x61 => registers[to] = context[one.offset as usize / 4],
                ALU32_MOV => registers[to] = value,
                ALU32_MOV_REGISTER => registers[to] = registers[from],
                ALU32_AND => registers[to] &= value,
                ALU32_RSH => registers[to] >>= value,
                JUMP32_NOT_EQUAL if registers[to] != value => at += one.offset as usize,
                JUMP32_EQUAL if registers[to] == value => at += one.offset as usize,
                JUMP32_NOT_EQUAL | JUMP32_EQUAL => {}
                EXIT => return registers[0] == 1,
                other => panic!("no such instruction: {other:#x}"),
            }
        }
    }

    fn rule(allow: bool, kind: Option<LinuxDeviceType>, major: Option<i64>, access: &str) -> Rule {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(allow).set_typ(kind).set_major(major);
        rule.set_access(Some(access.to_owned()));
        Rule::of(&rule)
    }

    #[test]
    fn the_last_rule_that_matches_decides() {
        let rules = [
            rule(false, None, None, "rwm"),
            rule(true, Some(LinuxDeviceType::C), Some(10), "rw"),
            rule(false, Some(LinuxDeviceType::C), Some(10), "w"),
            rule(true, Some(LinuxDeviceType::B), None, "r"),
        ];
        let program = compile(&rules);
        let (make, read, write) = (1, 2, 4);
        assert!(decide(&program, CHARACTER, read, 10, 1));
        assert!(!decide(&program, CHARACTER, write, 10, 1));
        assert!(!decide(&program, CHARACTER, read | write, 10, 1));
        assert!(!decide(&program, CHARACTER, make, 10, 1));
        assert!(!decide(&program, CHARACTER, read, 11, 1));
        assert!(decide(&program, BLOCK, read, 8, 0));
        assert!(!decide(&program, BLOCK, read | write, 8, 0));
    }

    #[test]
    fn every_container_has_its_default_devices() {
        let all: Vec<Rule> = std::iter::once(rule(false, None, None, "rwm"))
            .chain(defaults())
            .collect();
        let program = compile(&all);
        assert!(decide(&program, CHARACTER, 6, 1, 3), "null");
        assert!(decide(&program, CHARACTER, 6, 136, 77), "any pseudo-terminal");
        assert!(decide(&program, BLOCK, 1, 8, 0), "a node can be made");
        assert!(!decide(&program, BLOCK, 2, 8, 0), "and not be used");
        assert!(!decide(&program, CHARACTER, 2, 1, 1), "mem");
    }

    #[test]
    fn the_kernel_accepts_the_program_and_replaces_it() {
        let mount = std::path::Path::new("/sys/fs/cgroup/unified");
        let mount = if mount.exists() {
            mount
        } else {
            std::path::Path::new("/sys/fs/cgroup")
        };
        if !nix::unistd::geteuid().is_root() || !mount.join("cgroup.procs").exists() {
            return;
        }
        let path = mount.join(format!("pierhead-devices-{}", std::process::id()));
        std::fs::create_dir(&path).expect("makes a group");
        let directory = Directory {
            path: path.clone(),
            mount: mount.to_owned(),
            controllers: Vec::new(),
            is_v2: true,
        };
        let mut refuse = LinuxDeviceCgroup::default();
        refuse.set_allow(false).set_access(Some("rwm".to_owned()));
        let done =
            guard(&directory, std::slice::from_ref(&refuse)).and_then(|()| guard(&directory, &[refuse]));
        let attached = File::open(&path).map(|group| bpf::attached(group.as_fd()).map(|all| all.len()));
        std::fs::remove_dir(&path).expect("removes the group");
        done.expect("guards twice");
        assert_eq!(attached.expect("opens").expect("asks"), 1);
    }
}
