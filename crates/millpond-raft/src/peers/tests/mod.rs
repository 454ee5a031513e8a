//! Brokers of a simulated world that talk to each other.

mod calls;
mod links;
mod network;
mod raft;
mod real;
mod stand_in;
