//! A worker's state without the thread, and the packets that most cases use.

use weir_dataplane::endpoints::Endpoints;
use weir_dataplane::frame::Frame;
use weir_dataplane::origins::Origins;
use weir_dataplane::pipeline::Pipeline;
use weir_dataplane::shim::{Direction, Shim, ShimFlags};
use weir_table::addr::Address;
use weir_table::counters::Reason;

use super::{HeapClassifier, Matrix, ONE, TWO, Tables, Tally, frames};

use Did::{Drop, Held, Pass, PassBoth};

/// A node with everything that a worker would have.
pub struct Node {
    pub pipeline: Pipeline,
    pub classifier: Option<HeapClassifier>,
    pub endpoints: Endpoints,
    pub tables: Tables,
    pub offload: bool,
    pub origins: Option<Box<dyn Origins>>,
    pub tally: Tally,
    pub seconds: u64,
}

/// What the pipeline did with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Did {
    /// Passed this hook.
    Pass,
    /// Passed, and the second hook need not ask.
    PassBoth,
    Drop(Reason),
    /// Waits for its first fragment.
    Held,
}

impl Node {
    pub fn new(matrix: Matrix) -> Self {
        Self::with_tables(matrix, Tables::new())
    }

    pub fn with_tables(matrix: Matrix, tables: Tables) -> Self {
        Self {
            pipeline: Pipeline::new(0, 1),
            classifier: Some(matrix.classifier(1)),
            endpoints: super::two_endpoints(),
            tables,
            offload: true,
            origins: None,
            tally: Tally::new(),
            seconds: 5000,
        }
    }

    pub fn publish(&mut self, matrix: Matrix) {
        let generation = self.classifier.as_ref().map_or(1, |c| c.generation() + 1);
        self.classifier = Some(matrix.classifier(generation));
        self.tables.outdate();
    }

    pub fn punt(&mut self, device: u32, direction: Direction, ethernet: &[u8]) -> Did {
        let mut frame = Vec::new();
        Shim::new(device, direction).push_punted(ethernet, &mut frame);
        self.raw(&mut frame)
    }

    pub fn raw(&mut self, frame: &mut [u8]) -> Did {
        let before = self.tally.drops();
        let accept = self.burst(&mut [Frame::new(frame)]).contains(&true);
        if accept {
            let shim = Shim::of_accepted(frame).unwrap();
            return if shim.flags.contains(ShimFlags::COVERS_BOTH) { PassBoth } else { Pass };
        }
        let after = self.tally.drops();
        after.iter().find(|entry| !before.contains(entry)).map_or(Held, |&(reason, _)| Drop(reason))
    }

    /// Ethernet frames that waited and may pass now, in the order in which they are sent.
    pub fn released(&mut self) -> Vec<Vec<u8>> {
        let plain = |frame: &[u8]| {
            let mut plain = Vec::new();
            Shim::strip_accepted(frame, &mut plain).unwrap();
            plain
        };
        let released = self.pipeline.released().map(plain).collect();
        self.pipeline.forget_released();
        released
    }

    pub fn burst(&mut self, frames: &mut [Frame<'_>]) -> Vec<bool> {
        let mut view = self.tables.view(self.classifier.as_ref(), &self.endpoints);
        view.verdicts = view.verdicts.filter(|_| self.offload);
        view.origins = self.origins.as_deref();
        let now = self.seconds * 1_000_000_000;
        self.pipeline.process(frames, &view, now, &self.tally.block);
        frames.iter().map(|frame| frame.accept).collect()
    }

    pub fn expire(&mut self) {
        let view = self.tables.view(self.classifier.as_ref(), &self.endpoints);
        // As often as it takes to pass over the whole table.
        for _ in 0..100 {
            let now = self.seconds * 1_000_000_000;
            self.pipeline.expire(&view, now, &self.tally.block);
        }
    }
}

pub fn ip(actor: usize) -> Address {
    super::address(actor, false)
}

/// From ONE's client port to TWO's web server.
pub fn request(flags: u8) -> Vec<u8> {
    frames::tcp((ip(ONE), 4000), (ip(TWO), 80), flags)
}

/// The other way.
pub fn response(flags: u8) -> Vec<u8> {
    frames::tcp((ip(TWO), 80), (ip(ONE), 4000), flags)
}

pub const NO_WAY_BACK: Matrix = Matrix { egress: Matrix::OPEN.egress, ingress: NOTHING_INTO_ONE };
pub const NOTHING_INTO_ONE: [[u8; 4]; 4] = {
    let mut table = Matrix::OPEN.ingress;
    table[ONE] = [0; 4];
    table
};
