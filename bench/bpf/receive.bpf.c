/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Takes the generator's frames off a device before its network stack sees them: nobody
 * listens on their ports, and the stack would answer with errors.
 *
 * Frames are recognised by protocol and ports alone, so that handshakes, whose frames differ,
 * need no cases of their own. All others pass.
 *
 * bench_receive (XDP) hands a frame to the AF_XDP socket with eight bytes in front: the time
 * of its arrival, CLOCK_MONOTONIC in the machine's own byte order. So latency does not depend
 * on when the sink gets to read its ring.
 *
 * bench_drop (tc ingress) drops it: AF_PACKET sockets have had their copy by then.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define IPV4_FRAGMENT bpf_htons(0x3fff) /* more fragments, or an offset */
#define IPV6_HEADER 40
#define HEADERS (ETH_HLEN + 60 + 4) /* up to the ports, whatever options IPv4 has */

/* Set before loading, host byte order. */
const volatile __u8 bench_protocol; /* 0: UDP, TCP and SCTP */
const volatile __u16 bench_sport_first, bench_sport_last;
const volatile __u16 bench_dport_first, bench_dport_last;

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} bench_xsks SEC(".maps");

static __always_inline int wanted(__u8 protocol)
{
	if (bench_protocol)
		return protocol == bench_protocol;
	return protocol == IPPROTO_UDP || protocol == IPPROTO_TCP || protocol == IPPROTO_SCTP;
}

/* Whether a frame is the generator's. Source and destination port begin every one of the
 * three transport headers. */
static __always_inline int is_ours(void *data, void *end)
{
	__u8 *at = data;
	__u16 *ports;

	if ((void *)(at + ETH_HLEN) > end)
		return 0;
	__u16 type = *(__u16 *)(at + 12);
	at += ETH_HLEN;
	if (type == bpf_htons(ETH_P_IP)) {
		if ((void *)(at + 20) > end || !wanted(at[9]))
			return 0;
		if (*(__u16 *)(at + 6) & IPV4_FRAGMENT)
			return 0;
		at += (at[0] & 15) * 4;
	} else if (type == bpf_htons(ETH_P_IPV6)) {
		if ((void *)(at + IPV6_HEADER) > end || !wanted(at[6]))
			return 0;
		at += IPV6_HEADER;
	} else {
		return 0;
	}
	ports = (__u16 *)at;
	if ((void *)(ports + 2) > end)
		return 0;
	__u16 sport = bpf_ntohs(ports[0]), dport = bpf_ntohs(ports[1]);
	return sport >= bench_sport_first && sport <= bench_sport_last &&
	       dport >= bench_dport_first && dport <= bench_dport_last;
}

SEC("xdp")
int bench_receive(struct xdp_md *ctx)
{
	__u64 *stamp;

	if (!is_ours((void *)(long)ctx->data, (void *)(long)ctx->data_end))
		return XDP_PASS;
	__u64 now = bpf_ktime_get_ns();
	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(*stamp)))
		return XDP_DROP;
	stamp = (void *)(long)ctx->data;
	if ((void *)(stamp + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	*stamp = now;
	return bpf_redirect_map(&bench_xsks, ctx->rx_queue_index, XDP_DROP);
}

SEC("classifier")
int bench_drop(struct __sk_buff *skb)
{
	/* The headers may lie outside the linear part; pulling none is no error. */
	bpf_skb_pull_data(skb, skb->len < HEADERS ? skb->len : HEADERS);
	return is_ours((void *)(long)skb->data, (void *)(long)skb->data_end) ? TC_ACT_SHOT
									      : TC_ACT_UNSPEC;
}

char _license[] SEC("license") = "Dual MIT/GPL";
