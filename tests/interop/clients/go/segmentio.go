package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	kafka "github.com/segmentio/kafka-go"
)

func segmentioWrite(ctx context.Context, topic string, values []string, change func(*kafka.Writer)) error {
	w := &kafka.Writer{
		Addr:         kafka.TCP(bootstrap...),
		Topic:        topic,
		BatchTimeout: 5 * time.Millisecond,
		RequiredAcks: kafka.RequireAll,
		Transport:    &kafka.Transport{},
	} // the default transport caches metadata across writers
	if change != nil {
		change(w)
	}
	defer w.Close()
	messages := make([]kafka.Message, len(values))
	for i, v := range values {
		messages[i] = kafka.Message{
			Key:     []byte("k"),
			Value:   []byte(v),
			Headers: []kafka.Header{{Key: "h", Value: []byte("1")}},
		}
	}
	return w.WriteMessages(ctx, messages...)
}

func segmentioRead(ctx context.Context, config kafka.ReaderConfig, count int, limit time.Duration) ([]string, error) {
	config.Brokers = bootstrap
	if config.MaxWait == 0 {
		config.MaxWait = 300 * time.Millisecond
	}
	r := kafka.NewReader(config)
	defer r.Close()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var got []string
	for len(got) < count {
		m, err := r.ReadMessage(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			return got, nil
		}
		if err != nil {
			return got, err
		}
		got = append(got, string(m.Value))
	}
	return got, nil
}

func segmentio() {
	for name, codec := range map[string]kafka.Compression{
		"none": 0, "gzip": kafka.Gzip, "snappy": kafka.Snappy, "lz4": kafka.Lz4, "zstd": kafka.Zstd,
	} {
		register(1, "kafka-go: "+name+" batches read back unchanged", func(ctx context.Context) error {
			topic, err := makeTopic(ctx, 1, nil)
			if err != nil {
				return err
			}
			if err := segmentioWrite(ctx, topic, numbered(500), func(w *kafka.Writer) { w.Compression = codec }); err != nil {
				return err
			}
			got, err := segmentioRead(
				ctx,
				kafka.ReaderConfig{Topic: topic, Partition: 0, MaxBytes: 1 << 20},
				500,
				20*time.Second,
			)
			if err != nil {
				return err
			}
			return same(got, numbered(500))
		})
	}
	register(
		1,
		"kafka-go: create and delete a topic, offsets at both ends, seek to a time",
		func(ctx context.Context) error {
			c := &kafka.Client{Addr: kafka.TCP(bootstrap...)}
			topic := unique("go")
			made, err := c.CreateTopics(
				ctx,
				&kafka.CreateTopicsRequest{
					Topics: []kafka.TopicConfig{{Topic: topic, NumPartitions: 1, ReplicationFactor: 1}},
				},
			)
			if err != nil {
				return err
			}
			if made.Errors[topic] != nil {
				return made.Errors[topic]
			}
			if err := until(ctx, "written", func() (bool, error) {
				err := segmentioWrite(ctx, topic, []string{"a", "b"}, nil)
				return err == nil, err
			}); err != nil {
				return err
			}
			r, err := c.ListOffsets(
				ctx,
				&kafka.ListOffsetsRequest{
					Topics: map[string][]kafka.OffsetRequest{topic: {kafka.FirstOffsetOf(0), kafka.LastOffsetOf(0)}},
				},
			)
			if err != nil {
				return err
			}
			p := r.Topics[topic][0]
			if err := want("offsets", [2]int64{p.FirstOffset, p.LastOffset}, [2]int64{0, 2}); err != nil {
				return err
			}
			reader := kafka.NewReader(
				kafka.ReaderConfig{Brokers: bootstrap, Topic: topic, MaxWait: 300 * time.Millisecond},
			)
			defer reader.Close()
			if err := reader.SetOffsetAt(ctx, time.Now().Add(-time.Minute)); err != nil {
				return err
			}
			m, err := reader.ReadMessage(ctx)
			if err != nil {
				return err
			}
			if err := want("first value", string(m.Value), "a"); err != nil {
				return err
			}
			_, err = c.DeleteTopics(ctx, &kafka.DeleteTopicsRequest{Topics: []string{topic}})
			return err
		},
	)
	register(2, "kafka-go: a group reads everything and resumes at its commits", func(ctx context.Context) error {
		topic, err := makeTopic(ctx, 3, nil)
		if err != nil {
			return err
		}
		wanted := []string{}
		for p := int32(0); p < 3; p++ {
			values := []string{}
			for i := 0; i < 20; i++ {
				values = append(values, fmt.Sprintf("%d-%02d", p, i))
			}
			wanted = append(wanted, values...)
			if err := produce(ctx, topic, p, values); err != nil {
				return err
			}
		}
		config := kafka.ReaderConfig{
			GroupID:           unique("g"),
			Topic:             topic,
			StartOffset:       kafka.FirstOffset,
			SessionTimeout:    10 * time.Second,
			HeartbeatInterval: 500 * time.Millisecond,
		}
		got, err := segmentioRead(ctx, config, 60, 25*time.Second)
		if err != nil {
			return err
		}
		if err := same(sorted(got), sorted(wanted)); err != nil {
			return err
		}
		late, err := segmentioRead(ctx, config, 1, 5*time.Second)
		if err != nil {
			return err
		}
		return want("records after the commits", len(late), 0)
	})
	register(4, "kafka-go: describe and alter configs, describe a group", func(ctx context.Context) error {
		topic, err := makeTopic(ctx, 1, nil)
		if err != nil {
			return err
		}
		c := &kafka.Client{Addr: kafka.TCP(bootstrap...)}
		altered, err := c.IncrementalAlterConfigs(
			ctx,
			&kafka.IncrementalAlterConfigsRequest{Resources: []kafka.IncrementalAlterConfigsRequestResource{{
				ResourceType: kafka.ResourceTypeTopic, ResourceName: topic,
				Configs: []kafka.IncrementalAlterConfigsRequestConfig{{
					Name: "retention.ms", Value: "54321", ConfigOperation: kafka.ConfigOperationSet,
				}}}}},
		)
		if err != nil {
			return err
		}
		if altered.Resources[0].Error != nil {
			return altered.Resources[0].Error
		}
		return until(ctx, "config", func() (bool, error) {
			d, err := c.DescribeConfigs(
				ctx,
				&kafka.DescribeConfigsRequest{
					Resources: []kafka.DescribeConfigRequestResource{
						{
							ResourceType: kafka.ResourceTypeTopic,
							ResourceName: topic,
							ConfigNames:  []string{"retention.ms"},
						},
					},
				},
			)
			return err == nil && len(d.Resources) == 1 && len(d.Resources[0].ConfigEntries) == 1 &&
				d.Resources[0].ConfigEntries[0].ConfigValue == "54321", err
		})
	})
}
