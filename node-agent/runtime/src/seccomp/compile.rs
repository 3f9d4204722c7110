//! From a runtime-spec filter to a classic BPF program for `seccomp(2)`.
//!
//! Layout of the program:
//! ```text
//! load arch; for each architecture: not equal → next
//!   load nr; (x86-64: number with the x32 bit → x32's tree or kill)
//!   a binary search over the numbers whose leaves are actions, or argument checks followed by actions
//! no architecture matched → kill the process
//! ```
//! Rules on one call are tried in order, those with arguments first; the first match decides. A call newer
//! than every call the filter names gets `ENOSYS` when the default action refuses, because a C library
//! falls back to an older call on `ENOSYS` but gives up on `EPERM`.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
};

use super::syscalls;

/// One BPF instruction, in the kernel's layout.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when the comparison holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// A compiled filter, ready to be loaded.
#[derive(Clone, Debug)]
pub struct Program {
    /// The instructions.
    pub instructions: Vec<Instruction>,
    /// Flags for `seccomp(2)`.
    pub flags: u32,
}

/// Why a filter cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The runtime has no table of this architecture's calls.
    #[error("architecture {0:?} is not supported in seccomp filters here")]
    Architecture(Arch),
    /// An argument index outside 0..=5.
    #[error("argument index {index} of system call {name} is not between 0 and 5")]
    ArgumentIndex {
        /// The call.
        name: String,
        /// The index.
        index: usize,
    },
    /// The kernel accepts at most 4096 instructions.
    #[error("the filter needs {0} instructions, the kernel accepts 4096")]
    TooLong(usize),
    /// Notification needs a listener, which this runtime does not pass on.
    #[error("action SCMP_ACT_NOTIFY is not supported")]
    Notify,
}

const LD_ABS: u16 = 0x20;
const JMP_JA: u16 = 0x05;
const JMP_JEQ: u16 = 0x15;
const JMP_JGT: u16 = 0x25;
const JMP_JGE: u16 = 0x35;
const ALU_AND: u16 = 0x54;
const RET: u16 = 0x06;

const X32_BIT: u32 = 0x4000_0000;
const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_KILL_THREAD: u32 = 0;
const RET_TRAP: u32 = 0x0003_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_TRACE: u32 = 0x7ff0_0000;
const RET_LOG: u32 = 0x7ffc_0000;
const RET_ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

const OFFSET_NR: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;

/// Compiles `filter`.
///
/// # Errors
/// See [`CompileError`].
pub fn compile(filter: &LinuxSeccomp) -> Result<Program, CompileError> {
    let default = action(filter.default_action(), filter.default_errno_ret())?;
    let mut tables: Vec<&Table> = Vec::new();
    for arch in filter.architectures().as_deref().unwrap_or(&[]) {
        let table = table_of(*arch)?;
        if !tables.iter().any(|known| std::ptr::eq(*known, table)) {
            tables.push(table);
        }
    }
    let native = table_of(Arch::ScmpArchNative)?;
    if !tables.iter().any(|known| std::ptr::eq(*known, native)) {
        tables.insert(0, native);
    }

    let mut code = vec![load(OFFSET_ARCH)];
    for table in tables.iter().filter(|table| !table.is_x32) {
        let mut body = vec![load(OFFSET_NR)];
        if table.audit == X86_64.audit {
            let x32 = tables.iter().find(|table| table.is_x32);
            let tree = match x32 {
                Some(x32) => rules_for(x32, filter, default)?,
                None => vec![ret(RET_KILL_PROCESS)],
            };
            body.push(Instruction {
                code: JMP_JGE,
                jt: 0,
                jf: 1,
                k: X32_BIT,
            });
            body.push(jump(1));
            body.push(jump(tree.len()));
            body.extend(tree);
        }
        body.extend(rules_for(table, filter, default)?);
        code.push(Instruction {
            code: JMP_JEQ,
            jt: 1,
            jf: 0,
            k: table.audit,
        });
        code.push(jump(body.len()));
        code.extend(body);
    }
    code.push(ret(RET_KILL_PROCESS));
    if code.len() > 4096 {
        return Err(CompileError::TooLong(code.len()));
    }
    let flags = filter.flags().iter().flatten().map(|flag| match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 1,
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => 2,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => 4,
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 32,
    });
    Ok(Program {
        instructions: code,
        flags: flags.fold(0, |all, flag| all | flag),
    })
}

struct Table {
    audit: u32,
    is_x32: bool,
    calls: &'static [(&'static str, u32)],
}

static X86_64: Table = Table {
    audit: 0xc000_003e,
    is_x32: false,
    calls: syscalls::X86_64,
};
static X86: Table = Table {
    audit: 0x4000_0003,
    is_x32: false,
    calls: syscalls::X86,
};
static X32: Table = Table {
    audit: 0xc000_003e,
    is_x32: true,
    calls: syscalls::X32,
};
static AARCH64: Table = Table {
    audit: 0xc000_00b7,
    is_x32: false,
    calls: syscalls::AARCH64,
};

impl Table {
    fn number(&self, name: &str) -> Option<u32> {
        let base = if self.is_x32 { X32_BIT } else { 0 };
        self.calls
            .binary_search_by(|(known, _)| (*known).cmp(name))
            .ok()
            .map(|at| base + self.calls[at].1)
    }
}

fn table_of(arch: Arch) -> Result<&'static Table, CompileError> {
    match arch {
        Arch::ScmpArchNative if cfg!(target_arch = "aarch64") => Ok(&AARCH64),
        Arch::ScmpArchNative | Arch::ScmpArchX86_64 => Ok(&X86_64),
        Arch::ScmpArchX86 => Ok(&X86),
        Arch::ScmpArchX32 => Ok(&X32),
        Arch::ScmpArchAarch64 => Ok(&AARCH64),
        other => Err(CompileError::Architecture(other)),
    }
}

/// What happens to one system call number: checks in order, then an action.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Verdict {
    checks: Vec<(Vec<Check>, u32)>,
    otherwise: u32,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Check {
    index: u32,
    op: LinuxSeccompOperator,
    value: u64,
    value_two: u64,
}

fn rules_for(table: &Table, filter: &LinuxSeccomp, default: u32) -> Result<Vec<Instruction>, CompileError> {
    let mut verdicts: BTreeMap<u32, (Verdict, bool)> = BTreeMap::new();
    for rule in filter.syscalls().iter().flatten() {
        let decided = action(rule.action(), rule.errno_ret().or(filter.default_errno_ret()))?;
        for name in rule.names() {
            let Some(number) = table.number(name) else {
                continue;
            };
            let (verdict, is_final) = verdicts.entry(number).or_insert_with(|| {
                (
                    Verdict {
                        checks: Vec::new(),
                        otherwise: default,
                    },
                    false,
                )
            });
            match rule.args().as_deref() {
                None | Some([]) if !*is_final => {
                    verdict.otherwise = decided;
                    *is_final = true;
                }
                None | Some([]) => {}
                Some(args) => {
                    let checks = args
                        .iter()
                        .map(|arg| check(name, arg))
                        .collect::<Result<Vec<_>, _>>()?;
                    // The grammar means "and" between arguments, but alternatives when one argument is
                    // named twice, as every runtime built on libseccomp has it.
                    let repeated = (0..6).any(|i| checks.iter().filter(|check| check.index == i).count() > 1);
                    if repeated {
                        verdict
                            .checks
                            .extend(checks.into_iter().map(|check| (vec![check], decided)));
                    } else {
                        verdict.checks.push((checks, decided));
                    }
                }
            }
        }
    }

    // Neighbouring numbers with one verdict become one segment; gaps have the default.
    let plain = |otherwise| Verdict {
        checks: Vec::new(),
        otherwise,
    };
    let refuses = default & 0xffff_0000 == RET_ERRNO && default != RET_ERRNO;
    let beyond = if refuses && !verdicts.is_empty() {
        RET_ERRNO | ENOSYS
    } else {
        default
    };
    let mut segments: Vec<(u32, Verdict)> = vec![(0, plain(default))];
    let mut push = |start: u32, verdict: Verdict| {
        match segments.last_mut() {
            Some((_, last)) if *last == verdict => {}
            Some((at, last)) if *at == start => *last = verdict,
            _ => segments.push((start, verdict)),
        };
    };
    let mut next = 0;
    for (number, (verdict, _)) in verdicts {
        if number > next {
            push(next, plain(default));
        }
        push(number, verdict);
        next = number + 1;
    }
    push(next, plain(beyond));
    Ok(search(&segments))
}

fn search(segments: &[(u32, Verdict)]) -> Vec<Instruction> {
    if let [(_, verdict)] = segments {
        return leaf(verdict);
    }
    let (low, high) = segments.split_at(segments.len() / 2);
    let (left, right) = (search(low), search(high));
    let mut code = vec![
        Instruction {
            code: JMP_JGE,
            jt: 0,
            jf: 1,
            k: high[0].0,
        },
        jump(left.len()),
    ];
    code.extend(left);
    code.extend(right);
    code
}

fn leaf(verdict: &Verdict) -> Vec<Instruction> {
    let mut code = Vec::new();
    for (checks, decided) in &verdict.checks {
        // Each comparison falls through when it holds and otherwise jumps past the action; bodies are
        // built back to front so that the distance is known.
        let mut body = vec![ret(*decided)];
        for check in checks.iter().rev() {
            let mut compared = compare(check, body.len());
            compared.extend(body);
            body = compared;
        }
        code.extend(body);
    }
    code.push(ret(verdict.otherwise));
    code
}

/// Instructions that fall through when `check` holds and skip `distance` instructions when it does not.
fn compare(check: &Check, distance: usize) -> Vec<Instruction> {
    let low = OFFSET_ARGS + check.index * 8;
    let high = low + 4;
    let (value_high, value_low) = halves(check.value);
    let fail = jump(distance);
    let test = |code, k, jt, jf| Instruction { code, jt, jf, k };
    match check.op {
        // high ≠ → fail; low ≠ → fail
        LinuxSeccompOperator::ScmpCmpEq => vec![
            load(high),
            test(JMP_JEQ, value_high, 0, 2),
            load(low),
            test(JMP_JEQ, value_low, 1, 0),
            fail,
        ],
        LinuxSeccompOperator::ScmpCmpNe => vec![
            load(high),
            test(JMP_JEQ, value_high, 0, 3),
            load(low),
            test(JMP_JEQ, value_low, 0, 1),
            fail,
        ],
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            let (mask_high, mask_low) = halves(check.value);
            let (wanted_high, wanted_low) = halves(check.value_two);
            vec![
                load(high),
                test(ALU_AND, mask_high, 0, 0),
                test(JMP_JEQ, wanted_high, 0, 3),
                load(low),
                test(ALU_AND, mask_low, 0, 0),
                test(JMP_JEQ, wanted_low, 1, 0),
                fail,
            ]
        }
        // high > → holds; high ≠ → fail; then the low halves decide.
        LinuxSeccompOperator::ScmpCmpGt | LinuxSeccompOperator::ScmpCmpGe => {
            let decide = if check.op == LinuxSeccompOperator::ScmpCmpGt {
                JMP_JGT
            } else {
                JMP_JGE
            };
            vec![
                load(high),
                test(JMP_JGT, value_high, 4, 0),
                test(JMP_JEQ, value_high, 0, 2),
                load(low),
                test(decide, value_low, 1, 0),
                fail,
            ]
        }
        // high > → fail; high < → holds; then the low halves decide.
        LinuxSeccompOperator::ScmpCmpLt | LinuxSeccompOperator::ScmpCmpLe => {
            let decide = if check.op == LinuxSeccompOperator::ScmpCmpLt {
                JMP_JGE
            } else {
                JMP_JGT
            };
            vec![
                load(high),
                test(JMP_JGT, value_high, 3, 0),
                test(JMP_JEQ, value_high, 0, 3),
                load(low),
                test(decide, value_low, 0, 1),
                fail,
            ]
        }
    }
}

fn check(name: &str, arg: &LinuxSeccompArg) -> Result<Check, CompileError> {
    let index = arg.index();
    match u32::try_from(index) {
        Ok(at) if at < 6 => Ok(Check {
            index: at,
            op: arg.op(),
            value: arg.value(),
            value_two: arg.value_two().unwrap_or(0),
        }),
        _ => Err(CompileError::ArgumentIndex {
            name: name.to_owned(),
            index,
        }),
    }
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, CompileError> {
    let data = errno.unwrap_or(EPERM) & 0xffff;
    match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => Ok(RET_KILL_THREAD),
        LinuxSeccompAction::ScmpActKillProcess => Ok(RET_KILL_PROCESS),
        LinuxSeccompAction::ScmpActTrap => Ok(RET_TRAP),
        LinuxSeccompAction::ScmpActErrno => Ok(RET_ERRNO | data),
        LinuxSeccompAction::ScmpActTrace => Ok(RET_TRACE | data),
        LinuxSeccompAction::ScmpActLog => Ok(RET_LOG),
        LinuxSeccompAction::ScmpActAllow => Ok(RET_ALLOW),
        LinuxSeccompAction::ScmpActNotify => Err(CompileError::Notify),
    }
}

fn halves(value: u64) -> (u32, u32) {
    ((value >> 32) as u32, (value & 0xffff_ffff) as u32)
}

fn load(offset: u32) -> Instruction {
    Instruction {
        code: LD_ABS,
        jt: 0,
        jf: 0,
        k: offset,
    }
}

fn ret(value: u32) -> Instruction {
    Instruction {
        code: RET,
        jt: 0,
        jf: 0,
        k: value,
    }
}

fn jump(distance: usize) -> Instruction {
    let k = u32::try_from(distance).expect("programs are shorter than 4 Gi instructions");
    Instruction {
        code: JMP_JA,
        jt: 0,
        jf: 0,
        k,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defaults;

    /// What the kernel's interpreter would return for a call.
    fn run(program: &Program, arch: u32, nr: u32, args: [u64; 6]) -> u32 {
        let mut data = [0u32; 16];
        data[0] = nr;
        data[1] = arch;
        for (i, arg) in args.iter().enumerate() {
            let (high, low) = halves(*arg);
            data[4 + i * 2] = low;
            data[5 + i * 2] = high;
        }
        let (mut pc, mut a) = (0usize, 0u32);
        loop {
            let i = program.instructions[pc];
            pc += 1;
            let skip = |holds: bool| if holds { i.jt as usize } else { i.jf as usize };
            match i.code {
                LD_ABS => a = data[(i.k / 4) as usize],
                ALU_AND => a &= i.k,
                JMP_JA => pc += i.k as usize,
                JMP_JEQ => pc += skip(a == i.k),
                JMP_JGT => pc += skip(a > i.k),
                JMP_JGE => pc += skip(a >= i.k),
                RET => return i.k,
                other => panic!("instruction {other:#x} is not one of ours"),
            }
        }
    }

    const NATIVE: u32 = 0xc000_003e;

    #[test]
    fn the_default_profile_decides_call_by_call() {
        let program = compile(&defaults::seccomp()).expect("compiles");
        let native = |nr, arg0| run(&program, NATIVE, nr, [arg0, 0, 0, 0, 0, 0]);
        let number = |name| X86_64.number(name).expect("is a call");
        for name in [
            "read", "openat", "execve", "futex", "chroot", "ptrace", "statx", "mseal",
        ] {
            assert_eq!(native(number(name), 0), RET_ALLOW, "{name}");
        }
        for name in [
            "mount",
            "bpf",
            "keyctl",
            "unshare",
            "kexec_load",
            "io_uring_setup",
            "reboot",
            "setns",
        ] {
            assert_eq!(native(number(name), 0), RET_ERRNO | EPERM, "{name}");
        }
        assert_eq!(native(number("clone3"), 0), RET_ERRNO | ENOSYS);
        assert_eq!(native(number("clone"), 0x11), RET_ALLOW);
        assert_eq!(
            native(number("clone"), 0x1000_0011),
            RET_ERRNO | EPERM,
            "CLONE_NEWUSER"
        );
        for family in 0..64u64 {
            let refused = [12, 19, 20, 23, 25, 34, 37, 38, 40].contains(&family) || family > 45;
            let wanted = if refused { RET_ERRNO | EPERM } else { RET_ALLOW };
            assert_eq!(native(number("socket"), family), wanted, "socket({family})");
        }
        assert_eq!(native(number("personality"), 0xffff_ffff), RET_ALLOW);
        assert_eq!(
            native(number("personality"), 0x0040_0000),
            RET_ERRNO | EPERM,
            "ADDR_NO_RANDOMIZE"
        );
        assert_eq!(native(1000, 0), RET_ERRNO | ENOSYS, "a call of the future");
    }

    #[test]
    fn other_architectures_are_filtered_by_their_own_numbers() {
        let program = compile(&defaults::seccomp()).expect("compiles");
        let none = [0; 6];
        assert_eq!(run(&program, 0x4000_0003, 3, none), RET_ALLOW, "read on x86");
        assert_eq!(
            run(&program, 0x4000_0003, 21, none),
            RET_ERRNO | EPERM,
            "mount on x86"
        );
        assert_eq!(run(&program, NATIVE, X32_BIT, none), RET_ALLOW, "read on x32");
        assert_eq!(
            run(&program, NATIVE, X32_BIT + 165, none),
            RET_ERRNO | EPERM,
            "mount on x32"
        );
        assert_eq!(
            run(&program, 0xc000_00b7, 0, none),
            RET_KILL_PROCESS,
            "Arm numbers on x86"
        );
    }

    #[test]
    fn every_operator_compares_all_64_bits() {
        use LinuxSeccompOperator as Op;
        let samples = [
            0u64,
            1,
            5,
            0xffff_ffff,
            0x1_0000_0000,
            0x1_0000_0005,
            0x2_0000_0000,
            u64::MAX,
        ];
        for op in [
            Op::ScmpCmpEq,
            Op::ScmpCmpNe,
            Op::ScmpCmpLt,
            Op::ScmpCmpLe,
            Op::ScmpCmpGt,
            Op::ScmpCmpGe,
        ] {
            for value in samples {
                let check = Check {
                    index: 2,
                    op,
                    value,
                    value_two: 0,
                };
                let verdict = Verdict {
                    checks: vec![(vec![check], 1)],
                    otherwise: 2,
                };
                let program = Program {
                    instructions: leaf(&verdict),
                    flags: 0,
                };
                for given in samples {
                    let holds = match op {
                        Op::ScmpCmpEq => given == value,
                        Op::ScmpCmpNe => given != value,
                        Op::ScmpCmpLt => given < value,
                        Op::ScmpCmpLe => given <= value,
                        Op::ScmpCmpGt => given > value,
                        _ => given >= value,
                    };
                    let got = run(&program, NATIVE, 0, [0, 0, given, 0, 0, 0]);
                    assert_eq!(got == 1, holds, "{given:#x} {op:?} {value:#x}");
                }
            }
        }
    }

    #[test]
    fn the_tables_are_sorted() {
        for table in [&X86_64, &X86, &X32, &AARCH64] {
            assert!(table.calls.is_sorted_by_key(|(name, _)| *name));
        }
    }
}
