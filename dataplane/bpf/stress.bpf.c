/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Only for tests/flow_stress.rs: the hooks' own lookup and writing code (flow.h),
 * run against writers in user space, with every word that it reads checked.
 *
 * Key n of a few is looked up over and over. Whatever is written under it, by either
 * side, follows from n and from one number e that is new with every writing; so a mixture
 * of two entries, or of two states of one, does not add up. entry_is_whole() and its
 * counterpart in Rust say how.
 *
 * build.rs also makes versions of this object in which one step of the protocol is
 * missing in flow.h. The test expects these to go wrong.
 */
#include "flow.h"

/* Lookups or writings of one invocation. */
#define ROUNDS 64
/* The keys' number is below this: a tick carries it in its lowest bits. */
#define MOST_KEYS 1024
/* Keys of stress_touch. */
#define REMEMBERED 4

/* What the test sets, and what it reads. One page of words, in this order. */
struct stress {
	__u64 keys;   /* keys in use, a power of two */
	__u64 looks;  /* lookups */
	__u64 hits;
	__u64 again;  /* entries met in the middle of a change */
	__u64 wrong;  /* hits whose words do not belong together */
	__u64 opened; /* flows entered from here */
	__u64 raced;  /* flows not entered, since somebody else was faster */
	/* stress_touch: */
	__u64 late;        /* touches that came after a new verdict */
	__u64 lost_flags;  /* touches that were noted, and are no more */
	__u64 lost_counts; /* likewise */
	struct {
		__u64 seen;
		__u64 counts;
		__u64 known; /* 0: nothing was noted yet */
	} noted[REMEMBERED];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct stress);
} weir_stress SEC(".maps");

static __always_inline struct stress *stress(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&weir_stress, &zero);
}

/* Key n: odd ones are IPv6; every other pair is opened by side hi. */
static __always_inline void tuple_of(const struct weir_config *c, __u32 n, struct tuple *t)
{
	t->s.v6 = n & 1;
	t->s.in_verdicts = 0;
	t->from_hi = n >> 1 & 1;
	t->protocol = IPPROTO_TCP;
	t->tcp_flags = TCP_SYN;
	if (t->s.v6) {
		t->s.key[0] = 0xfd00000000000000;
		t->s.key[1] = n;
		t->s.key[2] = 0xfd00000000000001;
		t->s.key[3] = n;
		t->s.key[4] = ports_word(1000 + n, 80, IPPROTO_TCP);
		t->s.hash = hash_words(c, t->s.key, WEIR_FLOW6_KEY_WORDS);
	} else {
		t->s.key[0] = (0x0a000000ULL + n) | (0x0a010000ULL + n) << 32;
		t->s.key[1] = ports_word(1000 + n, 80, IPPROTO_TCP);
		t->s.hash = hash_words(c, t->s.key, WEIR_FLOW4_KEY_WORDS);
	}
}

/* The words that follow from n and e: sides lo and hi. */
static __always_inline __u64 stamp_of(__u32 n, __u32 e, int hi)
{
	return (__u64)(2 * n + hi) << 32 | (hi ? ~e : e);
}

static __always_inline __u32 device_number(__u32 n, __u32 e, int hi)
{
	return e * 2654435761U + 2 * n + hi;
}

static __always_inline int entry_is_whole(const struct flow *f, __u32 n)
{
	const __u8 opened = WEIR_SEEN_ANY | WEIR_SEEN_SYN;
	__u32 e = (__u32)f->stamp_lo;
	int hi = n >> 1 & 1;

	return f->stamp_lo == stamp_of(n, e, 0) && f->stamp_hi == stamp_of(n, e, 1) &&
	       device_of(f, 0) == device_number(n, e, 0) &&
	       device_of(f, 1) == device_number(n, e, 1) &&
	       flow_state(f->ctl) == (e & 1 ? WEIR_FLOW_DENIED : WEIR_FLOW_ALLOWED) &&
	       !(f->ctl & WEIR_FLOW_FLAG_HI) == !hi &&
	       (__u16)(f->aux >> WEIR_AUX_VERSION_SHIFT) == (__u16)flow_version(f->ctl) &&
	       ((__u32)f->aux & (MOST_KEYS - 1)) == n && (seen_from(f->aux, hi) & opened) == opened;
}

enum outcome { MISSED, FOUND, LOOKED_AGAIN, WRONG };

static __always_inline enum outcome judge(const struct flow *f, __u32 n)
{
	if (!f->rest)
		return MISSED;
	return entry_is_whole(f, n) ? FOUND : WRONG;
}

/* Looks key n up as the fast path does. */
__noinline int look_fast(__u32 n)
{
	struct weir_config *c = config();
	struct tuple t;
	struct flow f;

	if (!c)
		return WRONG;
	tuple_of(c, n, &t);
	if (t.s.v6)
		find_flow(c, &t, 1, &f);
	else
		find_flow(c, &t, 0, &f);
	return judge(&f, n);
}

/* Looks key n up as the hook does off its fast path. */
__noinline int look_slowly(__u32 n)
{
	struct weir_config *c = config();
	struct tuple t = {};
	struct flow f;

	if (!c)
		return WRONG;
	tuple_of(c, n, &t);
	read_place(&t.s, find_place(&t.s), &f);
	return judge(&f, n);
}

/* Looks at one place of key n alone, to see how often an entry is in change. */
__noinline int look_at_one(__u32 n, __u32 which)
{
	struct weir_config *c = config();
	struct flow f = {};
	struct tuple t;
	__u32 place, state;

	if (!c)
		return WRONG;
	tuple_of(c, n, &t);
	place = place_of(t.s.hash, t.s.v6 ? c->flow6_mask : c->flow4_mask, which & 3);
	if (t.s.v6)
		state = LOOK_AT(weir_flows6, flow6, 5, t.s.key, place, &f);
	else
		state = LOOK_AT(weir_flows4, flow4, 2, t.s.key, place, &f);
	return state == LOOK_AGAIN ? LOOKED_AGAIN : judge(&f, n);
}

SEC("classifier")
int stress_read(struct __sk_buff *skb)
{
	struct stress *s = stress();

	if (!s)
		return DROP;
	for (int round = 0; round < ROUNDS; round++) {
		__u32 dice = bpf_get_prandom_u32();
		__u32 n = (dice >> 8) & (s->keys - 1) & (MOST_KEYS - 1);
		int outcome;

		switch (dice & 3) {
		case 0:
			outcome = look_slowly(n);
			break;
		case 1:
			outcome = look_at_one(n, dice >> 2 & 3);
			break;
		default:
			outcome = look_fast(n);
		}
		__sync_fetch_and_add(&s->looks, 1);
		if (outcome == FOUND || outcome == WRONG)
			__sync_fetch_and_add(&s->hits, 1);
		if (outcome == LOOKED_AGAIN)
			__sync_fetch_and_add(&s->again, 1);
		if (outcome == WRONG)
			__sync_fetch_and_add(&s->wrong, 1);
	}
	return PASS;
}

enum written { NOTHING, OPENED, RACED, TORN };

/* Does to key n what a hook may do: opens it if it is not there or over, touches it, counts. */
__noinline int write_key(__u32 n, __u32 dice)
{
	struct weir_config *c = config();
	struct flow f, verdict = {};
	struct tuple t = {};
	__u32 e = dice & ~1U;
	__u32 tick = (dice & ~(MOST_KEYS - 1)) | n;
	int place;

	if (!c)
		return NOTHING;
	tuple_of(c, n, &t);
	place = find_place(&t.s);
	read_place(&t.s, place, &f);
	if (f.rest) {
		if (!entry_is_whole(&f, n))
			return TORN;
		if (dice & 1) {
			t.tcp_flags = TCP_ACK;
			touch(&f, &t, tick);
			count_punted(&f, t.from_hi, 1);
			count_returned(&f, t.from_hi, 0);
			return NOTHING;
		}
	} else if (!t.s.has_free) {
		return NOTHING;
	} else {
		place = t.s.free_place;
	}
	/* A verdict's side lo is the source, who is the flow's initiator. */
	verdict.stamp_lo = stamp_of(n, e, t.from_hi);
	verdict.stamp_hi = stamp_of(n, e, !t.from_hi);
	verdict.ifindex = device_number(n, e, t.from_hi) |
			  (__u64)device_number(n, e, !t.from_hi) << 32;
	return enter_flow(&t, place, f.rest ? f.ctl : t.s.free_ctl, &verdict, tick) ? OPENED :
											 RACED;
}

SEC("classifier")
int stress_write(struct __sk_buff *skb)
{
	struct stress *s = stress();

	if (!s)
		return DROP;
	for (int round = 0; round < ROUNDS; round++) {
		__u32 n = bpf_get_prandom_u32() & (s->keys - 1) & (MOST_KEYS - 1);
		int outcome = write_key(n, bpf_get_prandom_u32());

		__sync_fetch_and_add(&s->looks, 1);
		if (outcome == OPENED)
			__sync_fetch_and_add(&s->opened, 1);
		if (outcome == RACED)
			__sync_fetch_and_add(&s->raced, 1);
		if (outcome == TORN)
			__sync_fetch_and_add(&s->wrong, 1);
	}
	return PASS;
}

/*
 * Notes a packet of key n's initiator and counts it, while user space gives the flow new
 * verdicts; and looks whether what was noted last time still stands. Nobody else touches or
 * counts here. A reset takes the part of what must not be lost: it can be taken back.
 */
__noinline int touch_key(__u32 n, __u32 dice)
{
	struct weir_config *c = config();
	struct stress *s = stress();
	struct tuple t = {};
	struct flow f;
	__u64 counts;
	__u8 seen;

	if (!c || !s || n >= REMEMBERED)
		return WRONG;
	tuple_of(c, n, &t);
	read_place(&t.s, find_place(&t.s), &f);
	if (!f.rest)
		return MISSED;
	seen = seen_from(f.aux, t.from_hi) & WEIR_SEEN_RST;
	counts = READ(f.rest[WEIR_FLOW_COUNTS]);
	if (s->noted[n].known && s->noted[n].seen != seen)
		s->lost_flags++;
	if (s->noted[n].known && s->noted[n].counts != counts)
		s->lost_counts++;

	t.tcp_flags = seen ? TCP_ACK : TCP_RST;
	touch(&f, &t, (dice & ~(MOST_KEYS - 1)) | n);
	count_punted(&f, t.from_hi, 1);
	s->noted[n].counts = READ(f.rest[WEIR_FLOW_COUNTS]);
	s->noted[n].seen = seen_from(READ(f.rest[WEIR_FLOW_AUX]), t.from_hi) & WEIR_SEEN_RST;
	s->noted[n].known = 1;
	if (s->noted[n].seen == seen)
		s->late++;
	return FOUND;
}

SEC("classifier")
int stress_touch(struct __sk_buff *skb)
{
	struct stress *s = stress();

	if (!s)
		return DROP;
	for (int round = 0; round < ROUNDS; round++) {
		__u32 dice = bpf_get_prandom_u32();
		int outcome = touch_key(dice & (s->keys - 1) & (REMEMBERED - 1), dice);

		s->looks++;
		if (outcome == FOUND)
			s->hits++;
	}
	return PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
