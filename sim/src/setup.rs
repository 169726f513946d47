//! The input of a simulation: nodes, links, images, and events.

use flights::Key;

/// Microseconds of virtual time.
pub type Micros = u64;

pub fn micros(time: std::time::Duration) -> Micros {
    time.as_micros() as Micros
}

pub const MILLI: Micros = 1_000;
pub const SECOND: Micros = 1_000_000;

/// Who decides where a node pulls an object from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// The rules of `crates/flights`
    Peili,
    /// A complete holder picked at random, or else upstream: Spegel's rule
    Spegel,
    /// Upstream
    Alone,
}

/// How containerd limits its downloads: three at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Containerd {
    /// The limit up to 2.0: for each image; a slot is kept throughout.
    PerImage,
    /// The limit from 2.1: for the whole node. Layers are queued in random order; after a 404 of the mirror a download
    /// goes to the end of the queue.
    PerNode,
}

#[derive(Clone, Debug)]
pub struct Object {
    pub key: Key,
    pub size: u64,
    pub image: u32,
    /// The number of objects of the image that probably move at once, as the mirror computes it.
    pub concurrent_objects: u8,
}

/// An image: its manifest is the object `first`; its config and layers follow.
#[derive(Clone, Debug)]
pub struct Image {
    pub first: u32,
    pub objects: u32,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub node: u32,
    pub at: Micros,
    /// The images, requested at the same moment, in this order.
    pub images: Vec<u32>,
}

/// The source of a node's list of members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// Each runs the real membership. The first `founders` exist before; the others join when the pulls begin.
    Own { founders: u32 },
    /// All share one list. A dead node is removed after a while.
    Shared,
}

#[derive(Clone, Debug)]
pub struct Setup {
    pub seed: u64,
    pub mode: Mode,
    pub containerd: Containerd,
    /// Mirrors pull the layers that their nodes lead.
    pub mirrors_pull: bool,
    pub membership: Membership,
    /// The bandwidth of nodes in each direction, in bytes per second.
    pub rates: Vec<f64>,
    pub upstream: f64,
    /// The time to upstream's first byte.
    pub first_byte: Micros,
    pub objects: Vec<Object>,
    pub images: Vec<Image>,
    /// An image that all nodes pull first, and that does not count.
    pub before: Option<u32>,
    pub plans: Vec<Plan>,
    /// Nodes that have everything beforehand.
    pub holders: Vec<u32>,
    /// Nodes to which upstream denies everything.
    pub denied: Vec<u32>,
    pub deaths: Vec<(Micros, u32)>,
    /// When the owners of the keys die.
    pub owners_die: Option<Micros>,
    /// An object of which the first leader gets a third from upstream and no more.
    pub stalls: Option<u32>,
    /// Even and odd nodes cannot communicate between these times.
    pub partition: Option<(Micros, Micros)>,
    /// Links have become slow since nodes tested them.
    pub were_links_fast: bool,
    /// Nodes whose times do not count.
    pub left_out: Vec<u32>,
    /// A step of the model of links.
    pub step: Micros,
    /// The end of the simulation.
    pub limit: Micros,
}

impl Setup {
    pub fn nodes(&self) -> u32 {
        self.rates.len() as u32
    }

    /// Adds an image of these layers.
    pub fn image(&mut self, layers: &[u64]) -> u32 {
        const MANIFEST: u64 = 2_000;
        const CONFIG: u64 = 4_000;
        let image = self.images.len() as u32;
        let total: u64 = layers.iter().sum::<u64>() + CONFIG;
        let largest = layers.iter().max().copied().unwrap_or(1);
        // As `mirror::images`.
        let concurrent_objects = (total / largest.max(1)).clamp(1, 3) as u8;
        let first = self.objects.len() as u32;
        for (number, size) in [MANIFEST, CONFIG].iter().chain(layers).enumerate() {
            let name = format!("sha256:{}-{image}-{number}", self.seed);
            self.objects.push(Object {
                key: Key::of(&name),
                size: *size,
                image,
                concurrent_objects: if number == 0 { 1 } else { concurrent_objects },
            });
        }
        let objects = layers.len() as u32 + 2;
        self.images.push(Image { first, objects });
        image
    }

    /// The bytes of all counted images.
    pub fn bytes(&self) -> u64 {
        let counts = |object: &&Object| Some(object.image) != self.before;
        let counting = self.objects.iter().filter(counts);
        counting.map(|object| object.size).sum()
    }
}
