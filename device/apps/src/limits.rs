//! How much of an image is accepted. Every number bounds memory, disk or time against a hostile or broken image.

/// Upper bounds for one application image; the device's configuration may lower or raise them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one blob as it travels.
    pub blob_bytes: u64,
    /// Bytes of all layers of an image after decompression, archive headers included.
    pub unpacked_bytes: u64,
    /// Archive entries in all layers of an image.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { blob_bytes: 512 << 20, unpacked_bytes: 1 << 30, entries: 100_000 }
    }
}

impl Limits {
    /// Bytes of an index, a manifest or a configuration. Real ones have some kilobytes; they are held in memory.
    pub const DOCUMENT_BYTES: u64 = 1 << 20;
    /// Layers of an image; container engines stop at 127.
    pub const LAYERS: usize = 127;
    /// Manifests that an index may list.
    pub const MANIFESTS: usize = 256;
    /// Bytes of a path or of a link's target, as in `PATH_MAX`.
    pub const PATH_BYTES: usize = 4095;
    /// Bytes of one part of a path, as in `NAME_MAX`.
    pub const NAME_BYTES: usize = 255;
    /// Parts of a path; also bounds how deep a tree is walked.
    pub const DEPTH: usize = 64;
    /// Bytes of a POSIX extended header inside a layer.
    pub const EXTENSION_BYTES: u64 = 64 << 10;
    /// Size of the window that a zstd frame may ask for, as a power of two: 8 MiB, which RFC 8878 asks every decoder to support.
    pub const ZSTD_WINDOW_LOG: u32 = 23;
    /// Owners in an image lie below this number: the size of an application's range of user ids.
    pub const OWNERS: u32 = 65_536;
}
