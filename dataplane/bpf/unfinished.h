/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Bytes of a packet that the kernel has yet to write.
 *
 * A packet between pods carries no checksum: ip_summed is CHECKSUM_PARTIAL, and whoever sends it
 * on a real wire writes it, at csum_start + csum_offset. A stack puts both where they belong. But
 * who may open packet sockets (CAP_NET_RAW, which containers have by default) may choose them
 * (PACKET_VNET_HDR), and the payload so that any 16 bits get written: into the destination port,
 * say, long after the verdict. So a packet passes only if what is yet to be written lies where no
 * verdict looks.
 *
 * The hooks' context does not show these fields. They are read from struct sk_buff, which the
 * context is in truth, by offsets of the running kernel (CO-RE): since Linux 6.2 directly, before
 * that by a copy, which costs each packet that leaves a pod a third of its time in the hook.
 */
#ifndef WEIR_UNFINISHED_H
#define WEIR_UNFINISHED_H

#include <bpf/bpf_core_read.h>

#include "parse.h"
#include "tuple.h"

/* How the kernel lets the program look (src/steer/kernel_skb.rs). */
const volatile __u32 weir_sees_skb = WEIR_SKB_COPIED;

#define CHECKSUM_PARTIAL 3

/* What is read of it; the loader puts in where the kernel has it. */
struct sk_buff {
	__u8 ip_summed : 2;
	union {
		__u32 csum;
		struct {
			__u16 csum_start;
			__u16 csum_offset;
		};
	};
	__u16 mac_header;
} __attribute__((preserve_access_index));

#define OFFSET_OF(field) bpf_core_field_offset(struct sk_buff, field)
/* From ip_summed on, all that is wanted lies within so many bytes, in every kernel so far. */
#define WINDOW 64

/* Where they are read to: the hooks' stack has no room. No packet interrupts another here. */
struct window {
	__u8 bytes[WINDOW];
};
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct window);
} weir_window SEC(".maps");

static __always_inline __u16 at(const __u8 *window, __u32 base, __u32 offset)
{
	offset -= base;
	return offset <= WINDOW - 2 ? *(const __u16 *)(window + offset) : 0;
}

/* Where no byte may be written later: what cannot be read is taken for that, so that the packet
 * drops. Not 0, which means nothing is. */
#define UNREADABLE 1

/* Where in the frame of a struct sk_buff something is yet to be written, counted from its
 * Ethernet header; 0 if nothing is. */
static __always_inline __u32 unfinished_in(const struct sk_buff *s)
{
	__u32 base = __builtin_preserve_field_info(s->ip_summed, BPF_FIELD_BYTE_OFFSET);
	struct window *window;
	__u32 zero = 0;
	__u64 summed;
	__u8 *bytes;

	window = bpf_map_lookup_elem(&weir_window, &zero);
	if (!window || bpf_probe_read_kernel(window, sizeof(*window), (const void *)s + base))
		return UNREADABLE;
	bytes = window->bytes;
	summed = bytes[0];
	summed <<= __builtin_preserve_field_info(s->ip_summed, BPF_FIELD_LSHIFT_U64);
	summed >>= __builtin_preserve_field_info(s->ip_summed, BPF_FIELD_RSHIFT_U64);
	if (summed != CHECKSUM_PARTIAL)
		return 0;
	return (__u16)(at(bytes, base, OFFSET_OF(csum_start)) -
		       at(bytes, base, OFFSET_OF(mac_header))) +
	       at(bytes, base, OFFSET_OF(csum_offset));
}

/*
 * bpf_cast_to_kern_ctx(): the context as the kernel's own type, which the verifier then lets
 * the program read. A call of a kernel function goes by the number of its type, which the loader
 * writes over WEIR_CAST_MARK (it does not know such calls otherwise); the verifier puts a move
 * in its place.
 */
static __always_inline const struct sk_buff *kernel_skb(struct __sk_buff *skb)
{
	const struct sk_buff *s;

	asm volatile("r1 = %[skb]\n\t"
		     ".8byte %[call]\n\t"
		     "%[s] = r0"
		     : [s] "=r"(s)
		     : [skb] "r"(skb), [call] "i"((__u64)WEIR_CAST_MARK << 32 | 0x2085)
		     : "r0", "r1", "r2", "r3", "r4", "r5");
	return s;
}

/* The same as unfinished_in(). */
static __always_inline __u32 unfinished_of(const struct sk_buff *s)
{
	if (BPF_CORE_READ_BITFIELD(s, ip_summed) != CHECKSUM_PARTIAL)
		return 0;
	return (__u16)(s->csum_start - s->mac_header) + s->csum_offset;
}

static __always_inline __u32 unfinished_at(struct __sk_buff *skb)
{
	if (weir_sees_skb == WEIR_SKB_CAST)
		return unfinished_of(kernel_skb(skb));
	return weir_sees_skb == WEIR_SKB_COPIED ? unfinished_in((const void *)skb) : 0;
}

/*
 * Whether a place is none that a verdict rests on, given where the transport header begins:
 * the checksums of UDP, SCTP (4 bytes) and TCP, and all that comes after TCP's. Ports, lengths,
 * TCP's flags, the type of SCTP's first chunk, the identifier of an echo lie elsewhere.
 */
static __always_inline int is_harmless(__u32 place, __u32 transport)
{
	return place == transport + 6 || place == transport + 8 || place >= transport + 16;
}

/* For the fast path, which knows packets without options and extension headers only. */
static __always_inline int is_plainly_finished(struct __sk_buff *skb)
{
	__u32 header = skb->protocol == bpf_htons(ETH_P_IPV6) ? 40 : 20;
	__u32 place = unfinished_at(skb);

	return !place || is_harmless(place, ETH_HLEN + header);
}

/* The same for every packet. A global function: see steer_undecided(). */
__noinline int is_finished(struct __sk_buff *skb)
{
	__u32 place = unfinished_at(skb), transport = 0;
	__u8 first, next;

	if (!place)
		return 1;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN, &first, 1) ||
		    bpf_skb_load_bytes(skb, ETH_HLEN + 9, &next, 1))
			return 0;
		transport = ETH_HLEN + (first & 15) * 4;
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN + 6, &next, 1))
			return 0;
		transport = transport6(skb, &next);
	}
	/* No stack leaves an ICMP checksum to others, and its errors quote headers. */
	if (!transport || next == IPPROTO_ICMP || next == IPPROTO_ICMPV6)
		return 0;
	return is_harmless(place, transport);
}

#endif
