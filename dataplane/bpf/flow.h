/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The flow table and the verdict cache, seen from a hook.
 *
 * The words of an entry and the order in which they are written and read are
 * those of table/FLOW.md; the Rust side is table/src/flow/region.rs. A hook
 * reads entries, touches aux, counts in counts, and enters flows of which user
 * space has said that they may pass.
 *
 * Invariants
 *  - Nothing that was read of an entry is acted on unless ctl was the same live
 *    value before and after.
 *  - An entry says something about a packet only at the device that it names
 *    for the packet's own end, and only while both its stamps hold.
 */
#ifndef WEIR_FLOW_H
#define WEIR_FLOW_H

#include "tuple.h"

#define READ(word) (*(const volatile __u64 *)&(word))
#define WRITE(word, value) (*(volatile __u64 *)&(word) = (value))
#define COMPILER_BARRIER() asm volatile("" ::: "memory")

/*
 * Loads before it are done before loads after it. x86 keeps loads in order by
 * itself; elsewhere a fully ordered atomic on the stack does it (the kernel's
 * memory model, atomic_t.txt: value-returning atomics order everything).
 */
#if defined(__TARGET_ARCH_x86)
#define READ_BARRIER() COMPILER_BARRIER()
#else
#define READ_BARRIER()                                     \
	do {                                               \
		__u64 fence = 0;                           \
		COMPILER_BARRIER();                        \
		__sync_fetch_and_add(&fence, 1);           \
		COMPILER_BARRIER();                        \
	} while (0)
#endif

/* How often an entry in change is looked at again: a writer needs some 20 ns. */
#define LOOKS 3
/* How often a compare-exchange is tried against others at the same word. */
#define TRIES 3

/* What was read of an entry, all of one moment. */
struct flow {
	__u64 *rest; /* the words after its key; 0: there is no such entry */
	__u64 ctl;
	__u64 aux;
	__u64 ifindex;
	__u64 stamp_lo;
	__u64 stamp_hi;
	__u32 place; /* its index in the array */
};

/* Where a new entry could go, found on the way. */
struct room {
	__u64 ctl;
	__u32 place;
	__u32 is_free; /* 0: no place was free */
};

static __always_inline __u32 flow_state(__u64 ctl)
{
	return ctl & WEIR_FLOW_STATE_MASK;
}

static __always_inline __u32 flow_version(__u64 ctl)
{
	return ctl >> WEIR_FLOW_VERSION_SHIFT;
}

/* The index of the nth place (0..3) of a key: two buckets of two. */
static __always_inline __u32 place_of(__u64 hash, __u32 mask, int n)
{
	__u32 first = (__u32)hash & mask;
	__u32 second = (__u32)(hash >> 32) & mask;

	if (second == first)
		second ^= mask & 1;
	return (n < WEIR_FLOW_BUCKET ? first : second) * WEIR_FLOW_BUCKET + (n & 1);
}

/* Reads the words after the key; 0 if the entry changed meanwhile. */
static __always_inline int read_rest(struct flow *f, __u64 *entry, __u64 *rest, __u64 ctl,
				     __u32 place)
{
	f->aux = READ(rest[WEIR_FLOW_AUX]);
	f->ifindex = READ(rest[WEIR_FLOW_IFINDEX]);
	f->stamp_lo = READ(rest[WEIR_FLOW_STAMPS]);
	f->stamp_hi = READ(rest[WEIR_FLOW_STAMPS + 1]);
	READ_BARRIER();
	if (READ(entry[WEIR_FLOW_CTL]) != ctl)
		return 0;
	f->ctl = ctl;
	f->place = place;
	f->rest = rest;
	return 1;
}

/*
 * Looks for a key of WORDS words among the places of its hash. Sets `f` if it is
 * there; remembers the last free place otherwise. Evaluates to the number of
 * places that a writer was just changing.
 */
#define LOOK_IN(map, type, words, key, hash, mask, f, room)                              \
	({                                                                               \
		int busy_ = 0;                                                           \
		_Pragma("unroll") for (int n_ = 0; n_ < 4; n_++)                         \
		{                                                                        \
			__u32 place_ = place_of(hash, mask, n_);                         \
			struct type *e_ = bpf_map_lookup_elem(&(map), &place_);          \
			__u64 ctl_;                                                      \
                                                                                         \
			if (!e_ || (f)->rest)                                            \
				break;                                                   \
			ctl_ = READ(e_->word[WEIR_FLOW_CTL]);                            \
			READ_BARRIER();                                                  \
			if (flow_state(ctl_) == WEIR_FLOW_FREE) {                        \
				(room)->ctl = ctl_;                                      \
				(room)->place = place_;                                  \
				(room)->is_free = 1;                                     \
				continue;                                                \
			}                                                                \
			if (flow_state(ctl_) == WEIR_FLOW_BUSY) {                        \
				busy_++;                                                 \
				continue;                                                \
			}                                                                \
			if (!SAME_KEY_##words(e_->word, key))                            \
				continue;                                                \
			if (!read_rest(f, e_->word, e_->word + WEIR_FLOW_KEY + (words), ctl_,    \
				       place_))                                          \
				busy_++;                                                 \
		}                                                                        \
		busy_;                                                                   \
	})

#define SAME_KEY_2(w, key) (READ((w)[1]) == (key)[0] && READ((w)[2]) == (key)[1])
#define SAME_KEY_5(w, key)                                                     \
	(READ((w)[1]) == (key)[0] && READ((w)[2]) == (key)[1] &&               \
	 READ((w)[3]) == (key)[2] && READ((w)[4]) == (key)[3] && READ((w)[5]) == (key)[4])

/* The flow of a packet, and where one could be entered. */
static __always_inline void find_flow(const struct weir_config *c, const struct tuple *t, int v6,
				      struct flow *f, struct room *room)
{
	__u32 mask = v6 ? c->flow6_mask : c->flow4_mask;

	f->rest = 0;
	room->is_free = 0;
	for (int look = 0; look < LOOKS; look++) {
		int busy;

		if (v6)
			busy = LOOK_IN(weir_flows6, flow6, 5, t->key, t->hash, mask, f, room);
		else
			busy = LOOK_IN(weir_flows4, flow4, 2, t->key, t->hash, mask, f, room);
		if (f->rest || !busy)
			return;
	}
}

/* The cached verdict about who asks whom for what. */
static __always_inline void find_verdict(const struct weir_config *c, const struct tuple *t,
					 struct flow *f)
{
	struct room unused;
	__u64 key[5], hash;

	f->rest = 0;
	verdict_key(t, key);
	hash = t->v6 ? hash_words(c, key, WEIR_FLOW6_KEY_WORDS) :
		       hash_words(c, key, WEIR_FLOW4_KEY_WORDS);
	if (t->v6)
		(void)LOOK_IN(weir_verdicts6, flow6, 5, key, hash,
			      WEIR_VERDICTS6 / WEIR_FLOW_BUCKET - 1, f, &unused);
	else
		(void)LOOK_IN(weir_verdicts4, flow4, 2, key, hash,
			      WEIR_VERDICTS4 / WEIR_FLOW_BUCKET - 1, f, &unused);
}

/* ---- what an entry says ----------------------------------------------- */

static __always_inline int stamp_holds(__u64 stamp)
{
	__u32 slot = stamp >> 32, value = (__u32)stamp;
	__u64 *cell = bpf_map_lookup_elem(&weir_stamps, &slot);
	__u64 now;

	if (!cell)
		return 0;
	now = READ(*cell);
	return value == (__u32)now || value == (__u32)(now >> 32);
}

static __always_inline int stamps_hold(const struct flow *f)
{
	return stamp_holds(f->stamp_lo) && stamp_holds(f->stamp_hi);
}

static __always_inline __u32 device_of(const struct flow *f, int hi)
{
	return hi ? f->ifindex >> 32 : (__u32)f->ifindex;
}

static __always_inline __u8 seen_from(__u64 aux, int hi)
{
	return aux >> (hi ? WEIR_AUX_SEEN_HI_SHIFT : WEIR_AUX_SEEN_LO_SHIFT);
}

#define TICKS(seconds) \
	((__u32)(((__u64)(seconds) * 1000000000 + (1ULL << WEIR_TICK_SHIFT) - 1) >> WEIR_TICK_SHIFT))

/* How long the flow may be silent: table/src/flow/state.rs, FlowState::timeout. */
static __always_inline __u32 flow_timeout(const struct flow *f, __u8 protocol)
{
	__u8 either = seen_from(f->aux, 0) | seen_from(f->aux, 1);
	int answered = seen_from(f->aux, !(f->ctl & WEIR_FLOW_FLAG_HI)) & WEIR_SEEN_ANY;
	int cut = flow_state(f->ctl) == WEIR_FLOW_DENIED;

	if (protocol == IPPROTO_TCP) {
		if (cut)
			return TICKS(WEIR_TIMEOUT_TCP_ESTABLISHED);
		if (either & WEIR_SEEN_RST)
			return TICKS(WEIR_TIMEOUT_TCP_RESET);
		if (either & WEIR_SEEN_FIN)
			return TICKS(WEIR_TIMEOUT_TCP_CLOSING);
		return answered ? TICKS(WEIR_TIMEOUT_TCP_ESTABLISHED) :
				  TICKS(WEIR_TIMEOUT_TCP_OPENING);
	}
	if (protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6)
		return TICKS(WEIR_TIMEOUT_ICMP);
	if (!answered && !cut)
		return TICKS(WEIR_TIMEOUT_UNANSWERED);
	return protocol == IPPROTO_SCTP ? TICKS(WEIR_TIMEOUT_SCTP_ANSWERED) :
					  TICKS(WEIR_TIMEOUT_ANSWERED);
}

static __always_inline int is_over(const struct flow *f, __u8 protocol, __u32 tick)
{
	__u32 silent = tick - (__u32)f->aux;

	/* More than half of the range: a writer's tick is ahead of ours. */
	return silent && (__s32)silent > 0 && silent > flow_timeout(f, protocol);
}

/* Notes the packet; stores nothing unless the tick or the flags seen change. */
static __always_inline void touch(struct flow *f, const struct tuple *t, __u32 tick)
{
	__u32 shift = t->from_hi ? WEIR_AUX_SEEN_HI_SHIFT : WEIR_AUX_SEEN_LO_SHIFT;
	__u64 aux = f->aux;

	for (int try = 0; try < TRIES; try++) {
		__u8 seen = aux >> shift;
		__u64 next;

		if ((__u16)(aux >> WEIR_AUX_VERSION_SHIFT) != (__u16)flow_version(f->ctl))
			return;
		if (!(t->tcp_flags & WEIR_SEEN_RST))
			seen &= ~WEIR_SEEN_RST;
		seen |= WEIR_SEEN_ANY | (t->tcp_flags & (WEIR_SEEN_FIN | WEIR_SEEN_SYN |
							  WEIR_SEEN_RST | WEIR_SEEN_ACK));
		next = aux & ~(0xffULL << shift) & ~0xffffffffULL;
		next |= (__u64)seen << shift | tick;
		if (next == aux)
			return;
		next = __sync_val_compare_and_swap(&f->rest[WEIR_FLOW_AUX], aux, next);
		if (next == aux)
			return;
		aux = next;
	}
}

/* ---- order: packets of a side that are out in user space --------------- */

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

/* Counts `packets` that go out; gives the number that went before them. */
static __always_inline __u16 count_punted(struct flow *f, int hi, __u16 packets)
{
	__u32 shift = counts_shift(hi);
	__u64 counts = READ(f->rest[WEIR_FLOW_COUNTS]);

	for (int try = 0; try < TRIES; try++) {
		__u16 punted = counts >> shift;
		__u64 next = counts & ~(0xffffULL << shift);

		next |= (__u64)(__u16)(punted + packets) << shift;
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
	__u32 shift = counts_shift(hi) + 16;
	__u64 counts = READ(f->rest[WEIR_FLOW_COUNTS]);

	for (int try = 0; try < TRIES; try++) {
		__u16 returned = counts >> shift;
		__u64 next = counts & ~(0xffffULL << shift);

		if ((__s16)(before - returned) > 0)
			returned = before;
		returned++;
		/* It went out for an entry that this one has replaced. */
		if ((__s16)(returned - (__u16)(counts >> (shift - 16))) > 0)
			returned = counts >> (shift - 16);
		next |= (__u64)returned << shift;
		next = __sync_val_compare_and_swap(&f->rest[WEIR_FLOW_COUNTS], counts, next);
		if (next == counts)
			return;
		counts = next;
	}
}

/* ---- entering a flow --------------------------------------------------- */

/*
 * Enters the flow of a packet that a cached verdict lets pass: into a free place, or
 * in the place of an entry of the same key that is over. 0 if there is none, or
 * somebody else was faster; then a worker decides.
 */
static __always_inline int enter_flow(const struct tuple *t, const struct flow *old,
				      const struct room *room, const struct flow *verdict,
				      __u32 tick)
{
	__u32 place = old->rest ? old->place : room->place;
	__u64 ctl = old->rest ? old->ctl : room->ctl;
	__u64 src = (__u32)verdict->ifindex, dst = verdict->ifindex >> 32;
	__u64 version = flow_version(ctl) + 1;
	__u64 busy = version << WEIR_FLOW_VERSION_SHIFT | WEIR_FLOW_BUSY;
	__u64 seen = WEIR_SEEN_ANY | (t->tcp_flags & WEIR_SEEN_SYN);
	__u64 *word, *rest;

	if (!old->rest && !room->is_free)
		return 0;
	if (t->v6) {
		struct flow6 *e = bpf_map_lookup_elem(&weir_flows6, &place);

		if (!e || __sync_val_compare_and_swap(&e->word[WEIR_FLOW_CTL], ctl, busy) != ctl)
			return 0;
		WRITE(e->word[3], t->key[2]);
		WRITE(e->word[4], t->key[3]);
		WRITE(e->word[5], t->key[4]);
		word = e->word;
		rest = e->word + WEIR_FLOW_KEY + WEIR_FLOW6_KEY_WORDS;
	} else {
		struct flow4 *e = bpf_map_lookup_elem(&weir_flows4, &place);

		if (!e || __sync_val_compare_and_swap(&e->word[WEIR_FLOW_CTL], ctl, busy) != ctl)
			return 0;
		word = e->word;
		rest = e->word + WEIR_FLOW_KEY + WEIR_FLOW4_KEY_WORDS;
	}
	version = (version + 1) & 0xffffffff;
	WRITE(word[1], t->key[0]);
	WRITE(word[2], t->key[1]);
	WRITE(rest[WEIR_FLOW_AUX],
	      (version & 0xffff) << WEIR_AUX_VERSION_SHIFT |
		      seen << (t->from_hi ? WEIR_AUX_SEEN_HI_SHIFT : WEIR_AUX_SEEN_LO_SHIFT) | tick);
	WRITE(rest[WEIR_FLOW_IFINDEX], t->from_hi ? dst | src << 32 : src | dst << 32);
	WRITE(rest[WEIR_FLOW_STAMPS], t->from_hi ? verdict->stamp_hi : verdict->stamp_lo);
	WRITE(rest[WEIR_FLOW_STAMPS + 1], t->from_hi ? verdict->stamp_lo : verdict->stamp_hi);
	WRITE(rest[WEIR_FLOW_COUNTS], 0);
	/* Fully ordered, as nothing weaker is to be had: all of the above before it. */
	__sync_lock_test_and_set(&word[WEIR_FLOW_CTL],
				 version << WEIR_FLOW_VERSION_SHIFT | WEIR_FLOW_ALLOWED |
					 (t->from_hi ? WEIR_FLOW_FLAG_HI : 0));
	return 1;
}

#endif
