/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Order: packets of a side that are out in user space, which the next ones must
 * not overtake. Part of flow.h; the rules are told in table/FLOW.md.
 */
#ifndef WEIR_ORDER_H
#define WEIR_ORDER_H

static __always_inline __u32 counts_shift(int hi)
{
	return hi ? 32 : 0;
}

/* Whether packets of this side are out, which the next one must not overtake. */
static __always_inline int is_held(const struct flow *f, int hi)
{
	__u64 counts = READ(f->rest[WEIR_FLOW_COUNTS]) >> counts_shift(hi);

	return (__u16)counts != (__u16)(counts >> 16);
}

/*
 * Packets of a side, since it last was even, after which it counts as even although some
 * are out: a side that sends faster than packets come back never gets even otherwise.
 * Those that are out are then overtaken, once; of fewer in one go none ever is.
 */
#define HOLD_AT_MOST 2048

/* Counts `packets` that go out; gives the number that went before them. */
static __always_inline __u16 count_punted(struct flow *f, int hi, __u16 packets)
{
	__u32 shift = counts_shift(hi);
	__u64 counts = READ(f->rest[WEIR_FLOW_COUNTS]);

	for (int try = 0; try < TRIES; try++) {
		__u16 punted = counts >> shift;
		__u64 next = counts & ~(0xffffffffULL << shift);

		if (punted + packets < HOLD_AT_MOST) {
			next |= counts & (0xffff0000ULL << shift);
			next |= (__u64)(punted + packets) << shift;
		}
		next = __sync_val_compare_and_swap(&f->rest[WEIR_FLOW_COUNTS], counts, next);
		if (next == counts)
			return punted;
		counts = next;
	}
	return counts >> shift;
}

/*
 * Counts one that came back. The way through user space keeps a side's packets
 * in order, so those that went before it are back as well, or lost.
 */
static __always_inline void count_returned(struct flow *f, int hi, __u16 before)
{
	__u32 shift = counts_shift(hi);
	__u64 counts = READ(f->rest[WEIR_FLOW_COUNTS]);

	for (int try = 0; try < TRIES; try++) {
		__u16 punted = counts >> shift;
		__u16 returned = counts >> (shift + 16);
		__u64 next = counts & ~(0xffffffffULL << shift);

		if (returned < before)
			returned = before;
		returned++;
		/* Even: both begin anew. Beyond even: it went out before the side was
		 * last even, or for an entry that this one has replaced. */
		if (returned < punted)
			next |= ((__u64)punted | (__u64)returned << 16) << shift;
		next = __sync_val_compare_and_swap(&f->rest[WEIR_FLOW_COUNTS], counts, next);
		if (next == counts)
			return;
		counts = next;
	}
}

#endif
