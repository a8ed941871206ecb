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
 * memory model, atomic_t.txt: value-returning atomics order everything). It is
 * an exchange because clang turns an addition whose result is not used into
 * one that returns nothing, and that orders nothing.
 */
#if defined(__TARGET_ARCH_x86)
#define READ_BARRIER() COMPILER_BARRIER()
#else
#define READ_BARRIER()                                     \
	do {                                               \
		__u64 fence = 0;                           \
		COMPILER_BARRIER();                        \
		__sync_lock_test_and_set(&fence, 1);       \
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
static __always_inline int read_rest(struct flow *f, __u64 *entry, __u64 *rest, __u64 ctl)
{
	f->aux = READ(rest[WEIR_FLOW_AUX]);
	f->ifindex = READ(rest[WEIR_FLOW_IFINDEX]);
	f->stamp_lo = READ(rest[WEIR_FLOW_STAMPS]);
	f->stamp_hi = READ(rest[WEIR_FLOW_STAMPS + 1]);
	READ_BARRIER();
	if (READ(entry[WEIR_FLOW_CTL]) != ctl)
		return 0;
	f->ctl = ctl;
	f->rest = rest;
	return 1;
}

#define SAME_KEY_2(w, key) (READ((w)[1]) == (key)[0] && READ((w)[2]) == (key)[1])
#define SAME_KEY_5(w, key)                                                     \
	(READ((w)[1]) == (key)[0] && READ((w)[2]) == (key)[1] &&               \
	 READ((w)[3]) == (key)[2] && READ((w)[4]) == (key)[3] && READ((w)[5]) == (key)[4])

/*
 * Looks at one place for a key of WORDS words and sets `f` if it is there. Evaluates to
 * what the place held: a WEIR_FLOW_* state, or LOOK_AGAIN if it was just changing.
 */
#define LOOK_AGAIN 0x100
#define LOOK_AT(map, type, words, key, place, f)                                        \
	({                                                                              \
		struct type *e_ = bpf_map_lookup_elem(&(map), &(place));                \
		__u32 found_ = WEIR_FLOW_DENIED;                                        \
                                                                                        \
		if (e_) {                                                               \
			__u64 ctl_ = READ(e_->word[WEIR_FLOW_CTL]);                     \
                                                                                        \
			READ_BARRIER();                                                 \
			found_ = flow_state(ctl_);                                      \
			if (found_ == WEIR_FLOW_BUSY)                                   \
				found_ = LOOK_AGAIN;                                    \
			else if (found_ == WEIR_FLOW_FREE)                              \
				(f)->ctl = ctl_;                                        \
			else if (SAME_KEY_##words(e_->word, key) &&                     \
				 !read_rest(f, e_->word,                                \
					    e_->word + WEIR_FLOW_KEY + (words), ctl_))  \
				found_ = LOOK_AGAIN;                                    \
		}                                                                       \
		found_;                                                                 \
	})

/* The flow of a packet, for the fast path: one look, every place spelled out, and one reading
 * of the entry behind them all, which needs less code and less stack than one for each. An
 * entry that is just changing is not found; steer_undecided() looks again. */
static __always_inline void find_flow(const struct weir_config *c, const struct tuple *t, int v6,
				      struct flow *f)
{
	__u32 mask = v6 ? c->flow6_mask : c->flow4_mask;
	__u32 words = v6 ? WEIR_FLOW6_KEY_WORDS : WEIR_FLOW4_KEY_WORDS;
	__u64 *found = 0, ctl = 0;

	f->rest = 0;
#pragma unroll
	for (int n = 0; n < 4; n++) {
		__u32 place = place_of(t->s.hash, mask, n);
		__u64 *e = v6 ? bpf_map_lookup_elem(&weir_flows6, &place) :
				bpf_map_lookup_elem(&weir_flows4, &place);

		if (!e)
			return;
		ctl = READ(e[WEIR_FLOW_CTL]);
		READ_BARRIER();
		if (flow_state(ctl) >= WEIR_FLOW_ALLOWED &&
		    (v6 ? SAME_KEY_5(e, t->s.key) : SAME_KEY_2(e, t->s.key))) {
			found = e;
			break;
		}
	}
	if (found)
		read_rest(f, found, found + WEIR_FLOW_KEY + words, ctl);
}

/* has_free counts the free places of both buckets, those of the second in these. */
#define IN_SECOND 4

#define PLACE_NONE (-1)
#define PLACE_IN_CHANGE (-2) /* it may be at one that a writer does not come to an end with */

/* LOOK_AT() the table that is searched. */
static __always_inline __u32 look_at(const struct search *s, __u32 place, struct flow *f)
{
	f->rest = 0;
	if (s->in_verdicts && s->v6)
		return LOOK_AT(weir_verdicts6, flow6, 5, s->key, place, f);
	if (s->in_verdicts)
		return LOOK_AT(weir_verdicts4, flow4, 2, s->key, place, f);
	if (s->v6)
		return LOOK_AT(weir_flows6, flow6, 5, s->key, place, f);
	return LOOK_AT(weir_flows4, flow4, 2, s->key, place, f);
}

/*
 * The place of a key, or one of the above. A global function, so that the verifier looks at
 * it once; the entry has to be read again at its place, and may then be gone.
 */
__noinline int find_place(struct search *s)
{
	struct weir_config *c = config();
	struct flow f;
	__u32 busy = 0;

	if (!s || !c)
		return PLACE_NONE;
	for (int look = 0; look < LOOKS; look++) {
		busy = 0;
		s->has_free = 0;
		for (int n = 0; n < 4; n++) {
			__u32 mask, place, state;

			if (s->in_verdicts)
				mask = (s->v6 ? WEIR_VERDICTS6 : WEIR_VERDICTS4) / WEIR_FLOW_BUCKET - 1;
			else
				mask = s->v6 ? c->flow6_mask : c->flow4_mask;
			/* 0, 1, 3, 2: the place to choose comes last. */
			place = place_of(s->hash, mask, n ^ n >> 1);
			state = look_at(s, place, &f);
			if (f.rest)
				return place;
			if (state == LOOK_AGAIN)
				busy++;
			if (state != WEIR_FLOW_FREE)
				continue;
			/* Of two buckets the emptier, of two the first, and of that the
			 * first place: where lookups come first (claim_free() of
			 * table/src/flow/writing.rs). */
			s->has_free += n < WEIR_FLOW_BUCKET ? 1 : IN_SECOND;
			if (n < WEIR_FLOW_BUCKET ? s->has_free > 1 :
						   s->has_free / IN_SECOND <=
							   s->has_free % IN_SECOND)
				continue;
			s->free_ctl = f.ctl;
			s->free_place = place;
		}
		if (!busy)
			break;
	}
	return busy ? PLACE_IN_CHANGE : PLACE_NONE;
}

/* Reads the entry at the place of a search, if it is there. */
static __always_inline void read_place(const struct search *s, int place, struct flow *f)
{
	if (place < 0)
		f->rest = 0;
	else
		look_at(s, place, f);
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
	int opener_hi = (f->ctl & WEIR_FLOW_FLAG_HI) != 0;
	__u8 opener = seen_from(f->aux, opener_hi), other = seen_from(f->aux, !opener_hi);
	int has_handshake = protocol == IPPROTO_TCP || protocol == IPPROTO_SCTP;
	int answered = (other & WEIR_SEEN_ANY) && (!has_handshake || (opener & WEIR_SEEN_ACK));
	int cut = flow_state(f->ctl) == WEIR_FLOW_DENIED;

	if (has_handshake && !cut) {
		if ((opener | other) & WEIR_SEEN_RST)
			return TICKS(WEIR_TIMEOUT_TCP_RESET);
		if ((opener | other) & WEIR_SEEN_FIN)
			return TICKS(WEIR_TIMEOUT_TCP_CLOSING);
	}
	if (protocol == IPPROTO_TCP)
		return answered || cut ? TICKS(WEIR_TIMEOUT_TCP_ESTABLISHED) :
					 TICKS(WEIR_TIMEOUT_TCP_OPENING);
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

/* Notes the packet; stores nothing unless the tick or the flags seen change. 0 if the entry
 * has a new verdict meanwhile, or others were faster all the time: look again. */
static __always_inline int touch(struct flow *f, const struct tuple *t, __u32 tick)
{
	__u32 shift = t->from_hi ? WEIR_AUX_SEEN_HI_SHIFT : WEIR_AUX_SEEN_LO_SHIFT;
	__u64 aux = f->aux;

	for (int try = 0; try < TRIES; try++) {
		__u8 seen = aux >> shift;
		__u64 next;

		if ((__u16)(aux >> WEIR_AUX_VERSION_SHIFT) != (__u16)flow_version(f->ctl))
			return 0;
		if (!(t->tcp_flags & WEIR_SEEN_RST))
			seen &= ~WEIR_SEEN_RST;
		if (!(t->tcp_flags & (WEIR_SEEN_SYN | WEIR_SEEN_RST)))
			seen |= WEIR_SEEN_MORE;
		seen |= WEIR_SEEN_ANY | (t->tcp_flags & (WEIR_SEEN_FIN | WEIR_SEEN_SYN |
							  WEIR_SEEN_RST | WEIR_SEEN_ACK));
		next = aux & ~(0xffULL << shift) & ~0xffffffffULL;
		next |= (__u64)seen << shift | tick;
		if (next == aux)
			return 1;
		next = __sync_val_compare_and_swap(&f->rest[WEIR_FLOW_AUX], aux, next);
		if (next == aux)
			return 1;
		aux = next;
	}
	return 0;
}

/* Notes that a cached verdict was used: in a full cache the one that was not for longest goes
 * first (table/src/flow/verdicts.rs). If somebody else is faster, nothing is lost. */
static __always_inline void note_use(const struct flow *verdict, __u32 tick)
{
	if ((__u32)verdict->aux != tick)
		__sync_val_compare_and_swap(&verdict->rest[WEIR_FLOW_AUX], verdict->aux,
					    (verdict->aux >> 32 << 32) | tick);
}

#include "order.h"

/* ---- entering a flow --------------------------------------------------- */

/* The account of the pod behind a device: Pod::of_device() of table/src/flow/quota.rs. */
static __always_inline __u32 pod_of(__u32 ifindex)
{
	__u32 pod = ifindex & WEIR_FLOW_POD_MASK;

	return ifindex && !pod ? WEIR_FLOW_POD_MASK : pod;
}

/* Takes a flow to a pod's account; 0 if it has as many as it may. Counted before the slot is
 * taken and given back after it is free, so that the count is never below the truth: see
 * table/src/flow/quota.rs. A function of its own for its share of the stack. */
__noinline int reserve(__u32 pod)
{
	__u32 behind = WEIR_QUOTA_LIMIT;
	__u64 *flows = bpf_map_lookup_elem(&weir_quota, &pod);
	__u64 *limit = bpf_map_lookup_elem(&weir_quota, &behind);

	if (!pod || !flows || !limit)
		return 1;
	if (__sync_fetch_and_add(flows, 1) < READ(*limit))
		return 1;
	__sync_fetch_and_add(flows, -1);
	return 0;
}

static __always_inline void release(__u32 pod)
{
	__u64 *flows = bpf_map_lookup_elem(&weir_quota, &pod);

	if (pod && flows)
		__sync_fetch_and_add(flows, -1);
}

/* Claims an entry whose control word is still `ctl`, which takes whatever it held off its
 * pod's account. */
static __always_inline int claim(__u64 *word, __u64 ctl, __u64 busy)
{
	if (__sync_val_compare_and_swap(&word[WEIR_FLOW_CTL], ctl, busy) != ctl)
		return 0;
	if (flow_state(ctl) != WEIR_FLOW_FREE)
		release(ctl >> WEIR_FLOW_POD_SHIFT & WEIR_FLOW_POD_MASK);
	return 1;
}

/*
 * Enters the flow of a packet that a cached verdict lets pass, into a place whose control
 * word is still `ctl`: a free one, or that of an entry of the same key that is over. 0 if
 * somebody else was faster, or the pod that opens it (or, if that is none of this node, the one
 * to which it is opened) has as many flows as it may; then a worker decides.
 */
static __always_inline int enter_flow(const struct tuple *t, __u32 place, __u64 ctl,
				      const struct flow *verdict, __u32 tick)
{
	__u64 src = (__u32)verdict->ifindex, dst = verdict->ifindex >> 32;
	__u64 pod = pod_of(src ? src : dst);
	__u64 version = flow_version(ctl) + 1;
	__u64 busy = version << WEIR_FLOW_VERSION_SHIFT | WEIR_FLOW_BUSY;
	__u64 seen = WEIR_SEEN_ANY | (t->tcp_flags & WEIR_SEEN_SYN ?: WEIR_SEEN_MORE);
	__u64 *word, *rest;

	if (!reserve(pod))
		return 0;
	if (t->s.v6) {
		struct flow6 *e = bpf_map_lookup_elem(&weir_flows6, &place);

		if (!e || !claim(e->word, ctl, busy)) {
			release(pod);
			return 0;
		}
		WRITE(e->word[3], t->s.key[2]);
		WRITE(e->word[4], t->s.key[3]);
		WRITE(e->word[5], t->s.key[4]);
		word = e->word;
		rest = e->word + WEIR_FLOW_KEY + WEIR_FLOW6_KEY_WORDS;
	} else {
		struct flow4 *e = bpf_map_lookup_elem(&weir_flows4, &place);

		if (!e || !claim(e->word, ctl, busy)) {
			release(pod);
			return 0;
		}
		word = e->word;
		rest = e->word + WEIR_FLOW_KEY + WEIR_FLOW4_KEY_WORDS;
	}
	version = (version + 1) & 0xffffffff;
	WRITE(word[1], t->s.key[0]);
	WRITE(word[2], t->s.key[1]);
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
					 pod << WEIR_FLOW_POD_SHIFT |
					 (t->from_hi ? WEIR_FLOW_FLAG_HI : 0));
	return 1;
}

#endif
