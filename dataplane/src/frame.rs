//! A frame in a burst: bytes that some backend lends to the pipeline, and the answer.
//!
//! The pipeline sees only this. Whether the bytes lie in an AF_XDP UMEM, in a vector
//! or came from a capture is the backend's business ([`crate::io::PacketIo`]).
#![forbid(unsafe_code)]

/// One received frame. It arrives with `accept == false`: whatever the pipeline does
/// not positively accept is dropped.
#[derive(Debug)]
pub struct Frame<'a> {
    /// The punted frame, `[shim 16][Ethernet 14][IP ..]`; an accepted one is rewritten in
    /// place to `[Ethernet 14][shim 16][IP ..]` (see [`crate::shim`]).
    pub data: &'a mut [u8],
    /// True: transmit `data`. False: drop it.
    pub accept: bool,
}

impl<'a> Frame<'a> {
    /// A frame as received: not accepted yet.
    pub fn new(data: &'a mut [u8]) -> Self {
        Self { data, accept: false }
    }
}
