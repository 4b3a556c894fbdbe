#![no_std]
#![no_main]
//! The BPF programs.

