//! The allocator of the program: mimalloc, asked for what it gives anyway.
//!
//! The crate `mimalloc` asks for the alignment of each piece of memory, even where every one has it. The
//! library then takes a longer way for sizes that are no power of two, asks itself for some bytes more, and so
//! keeps pieces of the next size (`mi_theap_malloc_zero_aligned_at_generic` in its `alloc-aligned.c`).

use std::alloc::{GlobalAlloc, Layout};

use libmimalloc_sys as mi;

/// Memory from mimalloc.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Allocator;

/// What `malloc` aligns to, as C demands of it and as the standard library reckons with on these machines:
/// `MI_MAX_ALIGN_SIZE`.
const NATURAL: usize = if cfg!(target_pointer_width = "64") { 16 } else { 8 };

/// Whether memory of this size and alignment is aligned without being asked.
const fn is_natural(size: usize, align: usize) -> bool {
    align <= NATURAL && align <= size
}

// An allocator cannot be given to Rust in another way. What is asked for goes on as it came: sizes are not
// changed, and memory goes back to where it is from, which takes it however it was asked for.
#[allow(unsafe_code, reason = "`GlobalAlloc` is an unsafe trait, and mimalloc is written in C")]
// SAFETY: memory is of the size that was asked for, and aligned: by the library where `is_natural` does not say
// that all of its memory is. Nothing panics.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: any size and any alignment that a `Layout` has may be asked for.
        unsafe {
            if is_natural(size, align) {
                mi::mi_malloc(size)
            } else {
                mi::mi_malloc_aligned(size, align)
            }
            .cast()
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: as above.
        unsafe {
            if is_natural(size, align) {
                mi::mi_zalloc(size)
            } else {
                mi::mi_zalloc_aligned(size, align)
            }
            .cast()
        }
    }

    #[inline]
    unsafe fn dealloc(&self, memory: *mut u8, _: Layout) {
        // SAFETY: the caller gives back what one of these functions gave it.
        unsafe { mi::mi_free(memory.cast()) }
    }

    #[inline]
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let (memory, align) = (memory.cast(), layout.align());
        // SAFETY: the caller gives what one of these functions gave it; its alignment stays.
        unsafe {
            if is_natural(size, align) {
                mi::mi_realloc(memory, size)
            } else {
                mi::mi_realloc_aligned(memory, size, align)
            }
            .cast()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(unsafe_code, reason = "only unsafe functions allocate")]
    fn memory_is_aligned_and_keeps_what_is_in_it() {
        let sizes = (1..300).chain([1 << 10, 10_000, 100_000, 3 << 20]);
        for (size, align) in
            sizes.flat_map(|size| [1, 2, 4, 8, 16, 32, 64, 4_096].map(|a| (size, a)))
        {
            let layout = Layout::from_size_align(size, align).expect("a layout");
            // SAFETY: each piece of memory is used within its size and given back once.
            unsafe {
                let zeroed = Allocator.alloc_zeroed(layout);
                assert!(!zeroed.is_null() && zeroed.addr().is_multiple_of(align), "{layout:?}");
                assert!((0..size).all(|n| *zeroed.add(n) == 0), "{layout:?}");
                Allocator.dealloc(zeroed, layout);
                let memory = Allocator.alloc(layout);
                assert!(!memory.is_null() && memory.addr().is_multiple_of(align), "{layout:?}");
                memory.write_bytes(7, size);
                let larger = Allocator.realloc(memory, layout, 2 * size);
                assert!(!larger.is_null() && larger.addr().is_multiple_of(align), "{layout:?}");
                assert!((0..size).all(|n| *larger.add(n) == 7), "{layout:?}");
                let layout = Layout::from_size_align(2 * size, align).expect("a layout");
                let smaller = Allocator.realloc(larger, layout, size.div_ceil(2));
                assert!(!smaller.is_null() && smaller.addr().is_multiple_of(align), "{layout:?}");
                assert!((0..size.div_ceil(2)).all(|n| *smaller.add(n) == 7), "{layout:?}");
                let layout = Layout::from_size_align(size.div_ceil(2), align).expect("a layout");
                Allocator.dealloc(smaller, layout);
            }
        }
    }
}
