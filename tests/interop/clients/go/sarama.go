package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

func saramaConfig() *sarama.Config {
	sarama.Logger = log.New(io.Discard, "", 0)
	c := sarama.NewConfig()
	c.Version = sarama.V3_6_0_0
	c.Producer.Return.Successes = true
	c.Producer.RequiredAcks = sarama.WaitForAll
	c.Producer.Partitioner = sarama.NewManualPartitioner
	c.Consumer.Offsets.Initial = sarama.OffsetOldest
	c.Consumer.Group.Session.Timeout = 10 * time.Second
	c.Consumer.Group.Heartbeat.Interval = 500 * time.Millisecond
	c.Metadata.RefreshFrequency = 2 * time.Second
	return c
}

func saramaProduce(topic string, values []string, change func(*sarama.Config)) error {
	c := saramaConfig()
	if change != nil {
		change(c)
	}
	p, err := sarama.NewSyncProducer(bootstrap, c)
	if err != nil {
		return err
	}
	defer p.Close()
	messages := make([]*sarama.ProducerMessage, len(values))
	for i, v := range values {
		messages[i] = &sarama.ProducerMessage{
			Topic:     topic,
			Partition: 0,
			Key:       sarama.StringEncoder("k"),
			Value:     sarama.StringEncoder(v),
			Headers:   []sarama.RecordHeader{{Key: []byte("h"), Value: []byte("1")}},
		}
	}
	return p.SendMessages(messages)
}

func saramaRead(
	ctx context.Context,
	topic string,
	count int,
	limit time.Duration,
	change func(*sarama.Config),
) ([]string, error) {
	c := saramaConfig()
	if change != nil {
		change(c)
	}
	consumer, err := sarama.NewConsumer(bootstrap, c)
	if err != nil {
		return nil, err
	}
	defer consumer.Close()
	partition, err := consumer.ConsumePartition(topic, 0, sarama.OffsetOldest)
	if err != nil {
		return nil, err
	}
	defer partition.Close()
	var got []string
	end := time.After(limit)
	for len(got) < count {
		select {
		case m := <-partition.Messages():
			got = append(got, string(m.Value))
		case <-end:
			return got, nil
		case <-ctx.Done():
			return got, ctx.Err()
		}
	}
	return got, nil
}

// saramaMember is a consumer group handler that notes what it is assigned and what it reads.
type saramaMember struct {
	sync.Mutex
	group sarama.ConsumerGroup
	share int
	seen  []string
}

func (m *saramaMember) Setup(s sarama.ConsumerGroupSession) error {
	m.Lock()
	defer m.Unlock()
	m.share = 0
	for _, partitions := range s.Claims() {
		m.share += len(partitions)
	}
	return nil
}
func (m *saramaMember) Cleanup(sarama.ConsumerGroupSession) error { return nil }
func (m *saramaMember) ConsumeClaim(s sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		select {
		case message, ok := <-claim.Messages():
			if !ok {
				return nil
			}
			m.Lock()
			m.seen = append(m.seen, string(message.Value))
			m.Unlock()
			s.MarkMessage(message, "")
		case <-s.Context().Done():
			return nil
		}
	}
}
func (m *saramaMember) state() (int, int) { m.Lock(); defer m.Unlock(); return m.share, len(m.seen) }

func saramaJoin(ctx context.Context, group, topic string, change func(*sarama.Config)) (*saramaMember, error) {
	c := saramaConfig()
	if change != nil {
		change(c)
	}
	g, err := sarama.NewConsumerGroup(bootstrap, group, c)
	if err != nil {
		return nil, err
	}
	m := &saramaMember{group: g}
	go func() {
		for ctx.Err() == nil {
			if err := g.Consume(ctx, []string{topic}, m); errors.Is(err, sarama.ErrClosedConsumerGroup) {
				return
			}
		}
	}()
	return m, nil
}

func saramaCases() {
	for name, codec := range map[string]sarama.CompressionCodec{
		"none": sarama.CompressionNone, "gzip": sarama.CompressionGZIP, "snappy": sarama.CompressionSnappy,
		"lz4": sarama.CompressionLZ4, "zstd": sarama.CompressionZSTD,
	} {
		register(1, "sarama: "+name+" batches read back unchanged", func(ctx context.Context) error {
			topic, err := makeTopic(ctx, 1, nil)
			if err != nil {
				return err
			}
			configure := func(c *sarama.Config) { c.Producer.Compression = codec }
			if err := saramaProduce(topic, numbered(500), configure); err != nil {
				return err
			}
			got, err := saramaRead(ctx, topic, 500, 20*time.Second, nil)
			if err != nil {
				return err
			}
			return same(got, numbered(500))
		})
	}
	register(1, "sarama: the idempotent producer keeps its order", func(ctx context.Context) error {
		topic, err := makeTopic(ctx, 1, nil)
		if err != nil {
			return err
		}
		configure := func(c *sarama.Config) { c.Producer.Idempotent = true; c.Net.MaxOpenRequests = 1 }
		if err := saramaProduce(topic, numbered(500), configure); err != nil {
			return err
		}
		got, err := saramaRead(ctx, topic, 500, 20*time.Second, nil)
		if err != nil {
			return err
		}
		return same(got, numbered(500))
	})
	register(
		1,
		"sarama: an old protocol version (0.11) still produces and consumes",
		func(ctx context.Context) error {
			topic, err := makeTopic(ctx, 1, nil)
			if err != nil {
				return err
			}
			old := func(c *sarama.Config) { c.Version = sarama.V2_1_0_0 }
			if err := saramaProduce(topic, numbered(10), old); err != nil {
				return err
			}
			got, err := saramaRead(ctx, topic, 10, 20*time.Second, old)
			if err != nil {
				return err
			}
			return same(got, numbered(10))
		},
	)
	register(1, "sarama: offsets at both ends and by time", func(ctx context.Context) error {
		topic, err := makeTopic(ctx, 1, nil)
		if err != nil {
			return err
		}
		before := time.Now().UnixMilli()
		if err := saramaProduce(topic, numbered(10), nil); err != nil {
			return err
		}
		c, err := sarama.NewClient(bootstrap, saramaConfig())
		if err != nil {
			return err
		}
		defer c.Close()
		var got [3]int64
		for i, at := range []int64{sarama.OffsetOldest, sarama.OffsetNewest, before - 1000} {
			if got[i], err = c.GetOffset(topic, 0, at); err != nil {
				return err
			}
		}
		return want("offsets", got, [3]int64{0, 10, 0})
	})
	register(1, "sarama: create, describe, grow and delete a topic", func(ctx context.Context) error {
		a, err := sarama.NewClusterAdmin(bootstrap, saramaConfig())
		if err != nil {
			return err
		}
		defer a.Close()
		topic := unique("go")
		if err := a.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: 2, ReplicationFactor: 1}, false); err != nil {
			return err
		}
		if err := a.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: 2, ReplicationFactor: 1}, false); !errors.Is(
			err,
			sarama.ErrTopicAlreadyExists,
		) {
			return fmt.Errorf("create again: %v", err)
		}
		if err := a.CreatePartitions(topic, 4, nil, false); err != nil {
			return err
		}
		if err := until(ctx, "grown", func() (bool, error) {
			d, err := a.DescribeTopics([]string{topic})
			return err == nil && len(d[0].Partitions) == 4, err
		}); err != nil {
			return err
		}
		return a.DeleteTopic(topic)
	})
	for name, strategy := range map[string]func() sarama.BalanceStrategy{
		"range": sarama.NewBalanceStrategyRange, "round robin": sarama.NewBalanceStrategyRoundRobin,
		"sticky": sarama.NewBalanceStrategySticky,
	} {
		register(
			2,
			"sarama: a group of two shares, hands over and resumes ("+name+")",
			func(ctx context.Context) error {
				topic, err := makeTopic(ctx, 4, nil)
				if err != nil {
					return err
				}
				for p := int32(0); p < 4; p++ {
					if err := produce(ctx, topic, p, numbered(25)); err != nil {
						return err
					}
				}
				group, choose := unique("g"), func(c *sarama.Config) {
					c.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{strategy()}
				}
				one, err := saramaJoin(ctx, group, topic, choose)
				if err != nil {
					return err
				}
				two, err := saramaJoin(ctx, group, topic, choose)
				if err != nil {
					return err
				}
				if err := until(ctx, "shares and records", func() (bool, error) {
					a, seenA := one.state()
					b, seenB := two.state()
					return a == 2 && b == 2 && seenA+seenB >= 100, fmt.Errorf("shares %d %d, records %d", a, b, seenA+seenB)
				}); err != nil {
					return err
				}
				two.group.Close()
				if err := until(ctx, "hand-over", func() (bool, error) { a, _ := one.state(); return a == 4, nil }); err != nil {
					return err
				}
				one.group.Close()
				late, err := saramaJoin(ctx, group, topic, choose)
				if err != nil {
					return err
				}
				defer late.group.Close()
				if err := until(ctx, "joined", func() (bool, error) { a, _ := late.state(); return a == 4, nil }); err != nil {
					return err
				}
				time.Sleep(2 * time.Second)
				_, again := late.state()
				return want("records after the commits", again, 0)
			},
		)
	}
	register(2, "sarama: list, describe and delete a group, list its offsets", func(ctx context.Context) error {
		topic, err := makeTopic(ctx, 1, nil)
		if err != nil {
			return err
		}
		if err := saramaProduce(topic, numbered(5), nil); err != nil {
			return err
		}
		group := unique("g")
		m, err := saramaJoin(ctx, group, topic, nil)
		if err != nil {
			return err
		}
		if err := until(ctx, "records", func() (bool, error) { _, n := m.state(); return n == 5, nil }); err != nil {
			return err
		}
		a, err := sarama.NewClusterAdmin(bootstrap, saramaConfig())
		if err != nil {
			return err
		}
		defer a.Close()
		d, err := a.DescribeConsumerGroups([]string{group})
		if err != nil {
			return err
		}
		if err := want("state", d[0].State, "Stable"); err != nil {
			return err
		}
		m.group.Close()
		offsets, err := a.ListConsumerGroupOffsets(group, map[string][]int32{topic: {0}})
		if err != nil {
			return err
		}
		if err := want("offset", offsets.GetBlock(topic, 0).Offset, int64(5)); err != nil {
			return err
		}
		return a.DeleteConsumerGroup(group)
	})
	register(3, "sarama: aborted records stay invisible, committed ones are read", func(ctx context.Context) error {
		topic, err := makeTopic(ctx, 1, nil)
		if err != nil {
			return err
		}
		c := saramaConfig()
		c.Producer.Idempotent = true
		c.Net.MaxOpenRequests = 1
		c.Producer.Transaction.ID = unique("tx")
		p, err := sarama.NewSyncProducer(bootstrap, c)
		if err != nil {
			return err
		}
		defer p.Close()
		for _, value := range []string{"bad", "good"} {
			if err := p.BeginTxn(); err != nil {
				return err
			}
			message := &sarama.ProducerMessage{Topic: topic, Value: sarama.StringEncoder(value)}
			if _, _, err := p.SendMessage(message); err != nil {
				return err
			}
			end := p.CommitTxn
			if value == "bad" {
				end = p.AbortTxn
			}
			if err := end(); err != nil {
				return err
			}
		}
		got, err := saramaRead(
			ctx,
			topic,
			2,
			4*time.Second,
			func(c *sarama.Config) { c.Consumer.IsolationLevel = sarama.ReadCommitted },
		)
		if err != nil {
			return err
		}
		return same(got, []string{"good"})
	})
	register(4, "sarama: topic configs, delete records, log dirs, cluster", func(ctx context.Context) error {
		topic, err := makeTopic(ctx, 1, nil)
		if err != nil {
			return err
		}
		if err := saramaProduce(topic, numbered(10), nil); err != nil {
			return err
		}
		a, err := sarama.NewClusterAdmin(bootstrap, saramaConfig())
		if err != nil {
			return err
		}
		defer a.Close()
		value := "54321"
		entry := sarama.IncrementalAlterConfigsEntry{Operation: sarama.IncrementalAlterConfigsOperationSet, Value: &value}
		changes := map[string]sarama.IncrementalAlterConfigsEntry{"retention.ms": entry}
		if err := a.IncrementalAlterConfig(sarama.TopicResource, topic, changes, false); err != nil {
			return err
		}
		if err := until(ctx, "config", func() (bool, error) {
			entries, err := a.DescribeConfig(sarama.ConfigResource{
				Type: sarama.TopicResource, Name: topic, ConfigNames: []string{"retention.ms"},
			})
			return err == nil && len(entries) == 1 && entries[0].Value == value, err
		}); err != nil {
			return err
		}
		if err := a.DeleteRecords(topic, map[int32]int64{0: 6}); err != nil {
			return err
		}
		got, err := saramaRead(ctx, topic, 4, 10*time.Second, nil)
		if err != nil {
			return err
		}
		if err := same(got, numbered(10)[6:]); err != nil {
			return err
		}
		brokers, controller, err := a.DescribeCluster()
		if err != nil {
			return err
		}
		if len(brokers) == 0 {
			return fmt.Errorf("controller %d, no brokers", controller)
		}
		_, err = a.DescribeLogDirs([]int32{brokers[0].ID()})
		return err
	})
}
