package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

func client(opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(
		append(
			[]kgo.Opt{
				kgo.SeedBrokers(bootstrap...),
				kgo.MetadataMinAge(250 * time.Millisecond),
				kgo.MetadataMaxAge(2 * time.Second),
			},
			opts...)...)
}

func withAdmin(use func(a *kadm.Client) error) error {
	c, err := client()
	if err != nil {
		return err
	}
	defer c.Close()
	return use(kadm.NewClient(c))
}

func makeTopic(ctx context.Context, partitions int32, configs map[string]*string) (string, error) {
	topic := unique("go")
	return topic, withAdmin(func(a *kadm.Client) error {
		r, err := a.CreateTopic(ctx, partitions, 1, configs, topic)
		if err != nil {
			return err
		}
		if r.Err != nil {
			return r.Err
		}
		return until(ctx, "topic ready", func() (bool, error) {
			ends, err := a.ListEndOffsets(ctx, topic)
			return err == nil && ends.Error() == nil && len(ends[topic]) == int(partitions), err
		})
	})
}

func produce(ctx context.Context, topic string, partition int32, values []string, opts ...kgo.Opt) error {
	c, err := client(append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		return err
	}
	defer c.Close()
	records := make([]*kgo.Record, len(values))
	for i, v := range values {
		records[i] = &kgo.Record{Topic: topic, Partition: partition, Key: []byte("k"), Value: []byte(v)}
	}
	return c.ProduceSync(ctx, records...).FirstErr()
}

func poll(ctx context.Context, c *kgo.Client, count int, limit time.Duration) []*kgo.Record {
	var got []*kgo.Record
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for len(got) < count && ctx.Err() == nil {
		c.PollFetches(ctx).EachRecord(func(r *kgo.Record) { got = append(got, r) })
	}
	return got
}

func readAll(ctx context.Context, topic string, count int, limit time.Duration, opts ...kgo.Opt) ([]string, error) {
	c, err := client(append(opts, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return recordValues(poll(ctx, c, count, limit)), nil
}

func recordValues(records []*kgo.Record) []string {
	out := make([]string, len(records))
	for i, r := range records {
		out[i] = string(r.Value)
	}
	return out
}

func franz() {
	codecs := map[string]kgo.CompressionCodec{
		"none":   kgo.NoCompression(),
		"gzip":   kgo.GzipCompression(),
		"snappy": kgo.SnappyCompression(),
		"lz4":    kgo.Lz4Compression(),
		"zstd":   kgo.ZstdCompression(),
	}
	for name, codec := range codecs {
		register(
			1,
			"franz-go: "+name+" batches from the (idempotent) producer read back unchanged",
			func(ctx context.Context) error {
				topic, err := makeTopic(ctx, 1, nil)
				if err != nil {
					return err
				}
				if err := produce(ctx, topic, 0, numbered(2000), kgo.ProducerBatchCompression(codec)); err != nil {
					return err
				}
				got, err := readAll(ctx, topic, 2000, 20*time.Second)
				if err != nil {
					return err
				}
				return same(got, numbered(2000))
			},
		)
	}
	register(1, "franz-go: acks none, leader and all arrive", func(ctx context.Context) error {
		for _, acks := range []kgo.Acks{kgo.NoAck(), kgo.LeaderAck(), kgo.AllISRAcks()} {
			topic, err := makeTopic(ctx, 1, nil)
			if err != nil {
				return err
			}
			opts := []kgo.Opt{kgo.RequiredAcks(acks)}
			if acks != kgo.AllISRAcks() {
				opts = append(opts, kgo.DisableIdempotentWrite())
			}
			if err := produce(ctx, topic, 0, numbered(10), opts...); err != nil {
				return err
			}
			got, err := readAll(ctx, topic, 10, 10*time.Second)
			if err != nil {
				return err
			}
			if err := same(got, numbered(10)); err != nil {
				return err
			}
		}
		return nil
	})
	register(
		1,
		"franz-go: offsets at both ends, after a time, and consumption from a time",
		func(ctx context.Context) error {
			topic, err := makeTopic(ctx, 1, nil)
			if err != nil {
				return err
			}
			c, err := client(kgo.DefaultProduceTopic(topic))
			if err != nil {
				return err
			}
			defer c.Close()
			base := time.Now().Add(-10 * time.Second)
			for i := 0; i < 10; i++ {
				at := base.Add(time.Duration(i) * 100 * time.Millisecond)
				if err := c.ProduceSync(ctx, &kgo.Record{Value: []byte(fmt.Sprint(i)), Timestamp: at}).FirstErr(); err != nil {
					return err
				}
			}
			a := kadm.NewClient(c)
			start, _ := a.ListStartOffsets(ctx, topic)
			end, _ := a.ListEndOffsets(ctx, topic)
			after, err := a.ListOffsetsAfterMilli(ctx, base.Add(350*time.Millisecond).UnixMilli(), topic)
			if err != nil {
				return err
			}
			got := [3]int64{start[topic][0].Offset, end[topic][0].Offset, after[topic][0].Offset}
			if err := want("offsets", got, [3]int64{0, 10, 4}); err != nil {
				return err
			}
			at, err := client(
				kgo.ConsumePartitions(
					map[string]map[int32]kgo.Offset{
						topic: {0: kgo.NewOffset().AfterMilli(base.Add(850 * time.Millisecond).UnixMilli())},
					},
				),
			)
			if err != nil {
				return err
			}
			defer at.Close()
			return same(recordValues(poll(ctx, at, 1, 10*time.Second)), []string{"9"})
		},
	)
	register(
		1,
		"franz-go: create, list, grow and delete a topic; errors have Kafka's codes",
		func(ctx context.Context) error {
			topic, err := makeTopic(ctx, 2, nil)
			if err != nil {
				return err
			}
			return withAdmin(func(a *kadm.Client) error {
				if r, _ := a.CreateTopic(ctx, 1, 1, nil, topic); !errors.Is(r.Err, kerr.TopicAlreadyExists) {
					return fmt.Errorf("create again: %v", r.Err)
				}
				if r, err := a.UpdatePartitions(ctx, 4, topic); err != nil || r.Error() != nil {
					return fmt.Errorf("grow: %v %v", err, r.Error())
				}
				if err := until(ctx, "grown", func() (bool, error) {
					d, err := a.ListTopics(ctx, topic)
					return err == nil && len(d[topic].Partitions) == 4, err
				}); err != nil {
					return err
				}
				if r, err := a.DeleteTopics(ctx, topic); err != nil || r.Error() != nil {
					return fmt.Errorf("delete: %v %v", err, r.Error())
				}
				return until(ctx, "deleted", func() (bool, error) {
					d, err := a.ListTopics(ctx, topic)
					return err == nil && errors.Is(d[topic].Err, kerr.UnknownTopicOrPartition), err
				})
			})
		},
	)
	register(1, "franz-go: a record over max.message.bytes is MESSAGE_TOO_LARGE", func(ctx context.Context) error {
		limit := "1000"
		topic, err := makeTopic(ctx, 1, map[string]*string{"max.message.bytes": &limit})
		if err != nil {
			return err
		}
		err = produce(
			ctx,
			topic,
			0,
			[]string{string(make([]byte, 5000))},
			kgo.ProducerBatchCompression(kgo.NoCompression()),
		)
		if !errors.Is(err, kerr.MessageTooLarge) {
			return fmt.Errorf("got %v", err)
		}
		return nil
	})
	for name, balancer := range map[string]kgo.GroupBalancer{
		"range": kgo.RangeBalancer(), "round robin": kgo.RoundRobinBalancer(), "sticky": kgo.StickyBalancer(),
		"cooperative sticky": kgo.CooperativeStickyBalancer(),
	} {
		register(
			2,
			"franz-go: a group of two shares, hands over and resumes ("+name+")",
			func(ctx context.Context) error {
				return franzGroup(ctx, kgo.Balancers(balancer))
			},
		)
	}
	register(2, "franz-go: a static member returns to its partitions", func(ctx context.Context) error {
		topic, err := makeTopic(ctx, 2, nil)
		if err != nil {
			return err
		}
		group := unique("g")
		for i := 0; i < 2; i++ {
			if err := produce(ctx, topic, 0, []string{fmt.Sprint(i)}); err != nil {
				return err
			}
			c, err := client(
				kgo.ConsumerGroup(group),
				kgo.ConsumeTopics(topic),
				kgo.InstanceID("one"),
				kgo.SessionTimeout(30*time.Second),
				kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
			)
			if err != nil {
				return err
			}
			got := recordValues(poll(ctx, c, 1, 10*time.Second))
			err = c.CommitUncommittedOffsets(ctx)
			c.Close()
			if err != nil {
				return err
			}
			if err := same(got, []string{fmt.Sprint(i)}); err != nil {
				return err
			}
		}
		return nil
	})
	register(2, "franz-go: a regex subscription follows new topics", func(ctx context.Context) error {
		prefix := unique("rx")
		c, err := client(
			kgo.ConsumerGroup(unique("g")),
			kgo.ConsumeRegex(),
			kgo.ConsumeTopics("^"+prefix+".*"),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		)
		if err != nil {
			return err
		}
		defer c.Close()
		poll(ctx, c, 1, time.Second)
		err = withAdmin(
			func(a *kadm.Client) error { _, err := a.CreateTopic(ctx, 1, 1, nil, prefix+"-a"); return err },
		)
		if err != nil {
			return err
		}
		if err := produce(ctx, prefix+"-a", 0, []string{"a"}); err != nil {
			return err
		}
		return same(recordValues(poll(ctx, c, 1, 30*time.Second)), []string{"a"})
	})
	register(2, "franz-go: lag, describe and delete of a group", func(ctx context.Context) error {
		topic, err := makeTopic(ctx, 1, nil)
		if err != nil {
			return err
		}
		group := unique("g")
		if err := produce(ctx, topic, 0, numbered(10)); err != nil {
			return err
		}
		return withAdmin(func(a *kadm.Client) error {
			var offsets kadm.Offsets
			offsets.AddOffset(topic, 0, 4, -1)
			if err := a.CommitAllOffsets(ctx, group, offsets); err != nil {
				return err
			}
			lags, err := a.Lag(ctx, group)
			if err != nil {
				return err
			}
			if err := want("lag", lags[group].Lag.Total(), 6); err != nil {
				return err
			}
			if err := want("state", lags[group].State, "Empty"); err != nil {
				return err
			}
			r, err := a.DeleteGroups(ctx, group)
			if err != nil {
				return err
			}
			return r.Error()
		})
	})
	register(
		3,
		"franz-go: aborted records stay invisible, the last stable offset moves on commit",
		func(ctx context.Context) error {
			topic, err := makeTopic(ctx, 1, nil)
			if err != nil {
				return err
			}
			c, err := client(kgo.TransactionalID(unique("tx")), kgo.DefaultProduceTopic(topic))
			if err != nil {
				return err
			}
			defer c.Close()
			for _, step := range []struct {
				value string
				end   kgo.TransactionEndTry
			}{{"bad", kgo.TryAbort}, {"good", kgo.TryCommit}} {
				if err := c.BeginTransaction(); err != nil {
					return err
				}
				if err := c.ProduceSync(ctx, kgo.StringRecord(step.value)).FirstErr(); err != nil {
					return err
				}
				if err := c.EndTransaction(ctx, step.end); err != nil {
					return err
				}
			}
			got, err := readAll(ctx, topic, 2, 4*time.Second, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
			if err != nil {
				return err
			}
			return same(got, []string{"good"})
		},
	)
	register(3, "franz-go: GroupTransactSession copies exactly once", func(ctx context.Context) error {
		in, err := makeTopic(ctx, 1, nil)
		if err != nil {
			return err
		}
		out, err := makeTopic(ctx, 3, nil)
		if err != nil {
			return err
		}
		if err := produce(ctx, in, 0, numbered(500)); err != nil {
			return err
		}
		session, err := kgo.NewGroupTransactSession(
			kgo.SeedBrokers(bootstrap...),
			kgo.TransactionalID(unique("tx")),
			kgo.ConsumerGroup(unique("g")),
			kgo.ConsumeTopics(in),
			kgo.ConsumeResetOffset(
				kgo.NewOffset().AtStart(),
			),
			kgo.FetchIsolationLevel(kgo.ReadCommitted()),
			kgo.RequireStableFetchOffsets(),
			kgo.MaxConcurrentFetches(1),
			kgo.FetchMaxBytes(2000),
		)
		if err != nil {
			return err
		}
		defer session.Close()
		for copied := 0; copied < 500 && ctx.Err() == nil; {
			fetches := session.PollRecords(ctx, 100)
			if err := session.Begin(); err != nil {
				return err
			}
			n := 0
			fetches.EachRecord(func(r *kgo.Record) {
				n++
				session.Produce(ctx, &kgo.Record{Topic: out, Value: r.Value}, nil)
			})
			committed, err := session.End(ctx, kgo.TryCommit)
			if err != nil {
				return err
			}
			if committed {
				copied += n
			}
		}
		got, err := readAll(ctx, out, 501, 5*time.Second, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
		if err != nil {
			return err
		}
		return same(sorted(got), numbered(500))
	})
	register(
		3,
		"franz-go: a second producer with the transactional id fences the first",
		func(ctx context.Context) error {
			topic, err := makeTopic(ctx, 1, nil)
			if err != nil {
				return err
			}
			id := unique("tx")
			open := func() (*kgo.Client, error) {
				c, err := client(kgo.TransactionalID(id), kgo.DefaultProduceTopic(topic))
				if err != nil {
					return nil, err
				}
				if err := c.BeginTransaction(); err != nil {
					return nil, err
				}
				return c, c.ProduceSync(ctx, kgo.StringRecord("x")).FirstErr()
			}
			old, err := open()
			if err != nil {
				return err
			}
			defer old.Close()
			fresh, err := open()
			if err != nil {
				return err
			}
			defer fresh.Close()
			if err := old.EndTransaction(ctx, kgo.TryCommit); err == nil {
				return errors.New("the zombie committed")
			}
			return fresh.EndTransaction(ctx, kgo.TryCommit)
		},
	)
	register(4, "franz-go: configs, delete records, log dirs, leader epochs", func(ctx context.Context) error {
		topic, err := makeTopic(ctx, 1, nil)
		if err != nil {
			return err
		}
		if err := produce(ctx, topic, 0, numbered(10)); err != nil {
			return err
		}
		return withAdmin(func(a *kadm.Client) error {
			value := "54321"
			changes := []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.ms", Value: &value}}
			if _, err := a.AlterTopicConfigs(ctx, changes, topic); err != nil {
				return err
			}
			if err := until(ctx, "config", func() (bool, error) {
				all, err := a.DescribeTopicConfigs(ctx, topic)
				if err != nil {
					return false, err
				}
				for _, c := range all[0].Configs {
					if c.Key == "retention.ms" && c.MaybeValue() == value {
						return true, nil
					}
				}
				return false, nil
			}); err != nil {
				return err
			}
			var offsets kadm.Offsets
			offsets.AddOffset(topic, 0, 3, -1)
			deleted, err := a.DeleteRecords(ctx, offsets)
			if err != nil {
				return err
			}
			if err := want("low watermark", deleted[topic][0].LowWatermark, int64(3)); err != nil {
				return err
			}
			var set kadm.TopicsSet
			set.Add(topic, 0)
			dirs, err := a.DescribeAllLogDirs(ctx, set)
			if err != nil || len(dirs) == 0 {
				return fmt.Errorf("log dirs: %v, %d brokers", err, len(dirs))
			}
			req := kadm.OffsetForLeaderEpochRequest{}
			req.Add(topic, 0, 0)
			epochs, err := a.OffsetForLeaderEpoch(ctx, req)
			if err != nil {
				return err
			}
			return want("end of epoch 0", epochs[topic][0].EndOffset, int64(10))
		})
	})
}

func franzGroup(ctx context.Context, opts ...kgo.Opt) error {
	topic, err := makeTopic(ctx, 4, nil)
	if err != nil {
		return err
	}
	group, wanted := unique("g"), []string{}
	for p := int32(0); p < 4; p++ {
		values := []string{}
		for i := 0; i < 25; i++ {
			values = append(values, fmt.Sprintf("%d-%02d", p, i))
		}
		wanted = append(wanted, values...)
		if err := produce(ctx, topic, p, values); err != nil {
			return err
		}
	}
	seen := map[string]bool{}
	members := make([]*kgo.Client, 2)
	for i := range members {
		members[i], err = client(
			append(
				opts,
				kgo.ConsumerGroup(group),
				kgo.ConsumeTopics(topic),
				kgo.SessionTimeout(10*time.Second),
				kgo.HeartbeatInterval(500*time.Millisecond),
				kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
			)...)
		if err != nil {
			return err
		}
	}
	step := func(clients ...*kgo.Client) {
		for _, c := range clients {
			for _, r := range poll(ctx, c, 1, 200*time.Millisecond) {
				seen[string(r.Value)] = true
			}
		}
	}
	described := func(wantedShares ...int) error {
		return until(ctx, fmt.Sprintf("shares %v", wantedShares), func() (bool, error) {
			step(members...)
			var ok bool
			err := withAdmin(func(a *kadm.Client) error {
				d, err := a.DescribeGroups(ctx, group)
				if err != nil {
					return err
				}
				got := map[int]int{}
				for _, m := range d[group].Members {
					if c, is := m.Assigned.AsConsumer(); is {
						for _, t := range c.Topics {
							got[len(t.Partitions)]++
						}
					}
				}
				need := map[int]int{}
				for _, s := range wantedShares {
					need[s]++
				}
				ok = fmt.Sprint(got) == fmt.Sprint(need) && d[group].State == "Stable"
				return nil
			})
			return ok, err
		})
	}
	if err := described(2, 2); err != nil {
		return err
	}
	all := func() (bool, error) { step(members...); return len(seen) == len(wanted), nil }
	if err := until(ctx, "all records", all); err != nil {
		return err
	}
	for _, m := range members {
		if err := m.CommitUncommittedOffsets(ctx); err != nil {
			return err
		}
	}
	members[1].Close()
	members = members[:1]
	if err := described(4); err != nil {
		return err
	}
	members[0].Close()
	late, err := readAll(ctx, topic, 1, 3*time.Second, append(opts, kgo.ConsumerGroup(group))...)
	if err != nil {
		return err
	}
	return want("records after the commits", len(late), 0)
}
