//! The configurations of decoders: `struct z_erofs_*_cfgs`, after the superblock.

use zerocopy::IntoBytes;

use super::algorithm::Algorithm;
use super::contents::Used;
use crate::BlockSize;
#[cfg(feature = "deflate")]
use crate::format::DeflateCfgs;
use crate::format::Lz4Cfgs;
#[cfg(feature = "lzma")]
use crate::format::LzmaCfgs;
#[cfg(feature = "zstd")]
use crate::format::ZstdCfgs;

/// One for each algorithm that is used, in the order of their numbers, each after its length.
pub(crate) fn configurations(used: &Used, block_size: BlockSize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for algorithm in Algorithm::ALL {
        if let Some(cluster) = used.clusters[usize::from(algorithm.number())] {
            put(&mut bytes, algorithm, cluster, block_size);
        }
    }
    bytes
}

/// `cluster` is the largest cluster in bytes.
fn put(bytes: &mut Vec<u8>, algorithm: Algorithm, cluster: u32, block_size: BlockSize) {
    /// The length of the configuration after the length field.
    fn length<T>() -> u16 {
        size_of::<T>() as u16 - 2
    }
    match algorithm {
        Algorithm::Lz4 => {
            let cfgs = Lz4Cfgs {
                length: length::<Lz4Cfgs>().into(),
                max_distance: u16::MAX.into(),
                max_pclusterblks: ((cluster / block_size.bytes()) as u16).into(),
                reserved: [0; 10],
            };
            bytes.extend_from_slice(cfgs.as_bytes());
        }
        #[cfg(feature = "lzma")]
        Algorithm::Lzma => {
            let cfgs = LzmaCfgs {
                length: length::<LzmaCfgs>().into(),
                dict_size: super::lzma::dictionary_size(cluster).into(),
                ..LzmaCfgs::default()
            };
            bytes.extend_from_slice(cfgs.as_bytes());
        }
        #[cfg(feature = "deflate")]
        Algorithm::Deflate => {
            let cfgs = DeflateCfgs {
                length: length::<DeflateCfgs>().into(),
                windowbits: super::deflate::WINDOW_BITS,
                ..DeflateCfgs::default()
            };
            bytes.extend_from_slice(cfgs.as_bytes());
        }
        #[cfg(feature = "zstd")]
        Algorithm::Zstd => {
            let window_log = super::zstd::window_log(cluster);
            let cfgs = ZstdCfgs {
                length: length::<ZstdCfgs>().into(),
                windowlog: (window_log - super::zstd::WINDOW_LOG_MIN) as u8,
                ..ZstdCfgs::default()
            };
            bytes.extend_from_slice(cfgs.as_bytes());
        }
        #[cfg(not(all(feature = "lzma", feature = "deflate", feature = "zstd")))]
        _ => {}
    }
}
