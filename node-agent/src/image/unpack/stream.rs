//! From the compressed layer to its archive: decompressed, bounded and hashed in one pass.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use oci::media_type::Compression;
use oci::{Algorithm, Digest, Hasher};

use super::{Limits, Reason};

/// Read from the pipe at once; the pipe itself holds 64 KiB.
const INPUT_BYTES: usize = 64 * 1024;
/// The largest zstd window, 128 MiB: what its own tools decompress without being asked for more.
const WINDOW_LOG_MAX: u32 = 27;

/// The decompressed layer. Fails with a [`Reason`] inside the I/O error when a bound is passed.
pub(super) struct LayerStream<'a, R: Read> {
    decoder: Decoder<R>,
    consumed: Rc<Cell<u64>>,
    hasher: Hasher,
    produced: u64,
    limits: &'a Limits,
}

enum Decoder<R: Read> {
    Plain(BufReader<Counted<R>>),
    Gzip(Box<MultiGzDecoder<BufReader<Counted<R>>>>),
    Zstd(Box<zstd::Decoder<'static, BufReader<Counted<R>>>>),
}

/// Counts what is read from the layer as it was sent.
struct Counted<R> {
    input: R,
    consumed: Rc<Cell<u64>>,
}

impl<'a, R: Read> LayerStream<'a, R> {
    pub(super) fn new(
        input: R,
        compression: Compression,
        algorithm: Algorithm,
        limits: &'a Limits,
    ) -> Result<Self, Reason> {
        let consumed = Rc::new(Cell::new(0));
        let counted = Counted {
            input,
            consumed: Rc::clone(&consumed),
        };
        let input = BufReader::with_capacity(INPUT_BYTES, counted);
        let decoder = match compression {
            Compression::None => Decoder::Plain(input),
            // Several members in a row are one stream (RFC 1952, 2.2), as parallel compressors write them.
            Compression::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(input))),
            Compression::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(input).map_err(Reason::of_stream)?;
                decoder
                    .window_log_max(WINDOW_LOG_MAX)
                    .map_err(Reason::of_stream)?;
                Decoder::Zstd(Box::new(decoder))
            }
        };
        Ok(Self {
            decoder,
            consumed,
            hasher: Hasher::new(algorithm),
            produced: 0,
            limits,
        })
    }

    /// Reads to the end of the layer and returns the digest of the whole archive.
    pub(super) fn finish(mut self) -> Result<Digest, Reason> {
        io::copy(&mut self, &mut io::sink()).map_err(Reason::of_stream)?;
        let left = match &mut self.decoder {
            Decoder::Plain(input) => input.fill_buf(),
            Decoder::Gzip(decoder) => decoder.get_mut().fill_buf(),
            Decoder::Zstd(decoder) => decoder.get_mut().fill_buf(),
        };
        match left.map_err(Reason::of_stream)? {
            [] => Ok(self.hasher.finish()),
            _ => Err(Reason::Corrupt {
                what: "there is something else after the compressed data".to_owned(),
            }),
        }
    }

    fn check_bounds(&self) -> Result<(), Reason> {
        if self.produced > self.limits.unpacked_bytes {
            return Err(Reason::TooLarge {
                limit: self.limits.unpacked_bytes,
            });
        }
        let compressed = self.consumed.get();
        if self.produced > self.limits.ratio_free_bytes
            && self.produced > compressed.saturating_mul(self.limits.ratio)
        {
            return Err(Reason::Bomb {
                compressed,
                unpacked: self.produced,
            });
        }
        Ok(())
    }
}

impl<R: Read> Read for LayerStream<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match &mut self.decoder {
            Decoder::Plain(input) => input.read(buffer),
            Decoder::Gzip(decoder) => decoder.read(buffer),
            Decoder::Zstd(decoder) => decoder.read(buffer),
        }?;
        self.hasher.update(&buffer[..count]);
        self.produced += count as u64;
        self.check_bounds().map_err(io::Error::other)?;
        Ok(count)
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.consumed.set(self.consumed.get() + count as u64);
        Ok(count)
    }
}
