//! A stream of bytes, wherever the network cuts it, as lines.

/// A line of a watch may be so long, in bytes. etcd takes 1.5 MiB for an object; JSON is larger.
pub const MAX_LINE: usize = 16 << 20;

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
pub struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// The next bytes; every line that they complete goes to `line`, without its end, until it says
    /// no.
    ///
    /// # Errors
    /// A line is longer than [`MAX_LINE`].
    pub fn push<E: From<TooLong>>(
        &mut self,
        mut bytes: &[u8],
        mut line: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            let (head, tail) = (&bytes[..end], &bytes[end + 1..]);
            bytes = tail;
            if self.rest.is_empty() {
                line(head)?;
            } else {
                self.rest.extend_from_slice(head);
                let whole = std::mem::take(&mut self.rest);
                line(&whole)?;
            }
        }
        if self.rest.len() + bytes.len() > MAX_LINE {
            return Err(TooLong.into());
        }
        self.rest.extend_from_slice(bytes);
        Ok(())
    }
}

/// A line longer than [`MAX_LINE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than 16 MiB")]
pub struct TooLong;

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        /// Wherever the network cuts, the lines are the same.
        #[test]
        fn lines_do_not_depend_on_the_cuts(
            text in "[ab\n]{0,40}",
            cuts in proptest::collection::vec(0usize..40, 0..8),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            for pair in cuts.windows(2) {
                let bytes = &text.as_bytes()[pair[0]..pair[1]];
                let line = |line: &[u8]| {
                    found.push(String::from_utf8(line.to_vec()).unwrap());
                    Ok::<(), TooLong>(())
                };
                lines.push(bytes, line).unwrap();
            }
            let mut expect: Vec<&str> = text.split('\n').collect();
            expect.pop();
            proptest::prop_assert_eq!(found, expect);
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut lines = Lines::default();
        let chunk = vec![b'x'; 1 << 20];
        let push = |lines: &mut Lines| lines.push(&chunk, |_| Ok::<(), TooLong>(()));
        for _ in 0..16 {
            push(&mut lines).unwrap();
        }
        assert_eq!(push(&mut lines), Err(TooLong));
    }
}
