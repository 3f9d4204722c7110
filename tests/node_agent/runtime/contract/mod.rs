//! What runtime-spec promises, case by case, on this runtime and on those of others: where they agree, so do we.
//!
//! A case lists the runtimes it holds on. One that is missing does not know the feature in the version Debian has, or
//! differs where the specification leaves the choice.

mod control_groups;
mod errors;
mod hooks;
mod life_cycle;
mod mounts;
mod namespaces;
mod process;
mod terminal;
