from fastgan.seeds import Stream, seed_of


def test_streams_of_one_seed_and_parts_of_one_stream_are_seeded_differently():
    seeds = [seed_of(seed, stream) for seed in (0, 1, 2**63 - 1) for stream in Stream]
    seeds += [seed_of(0, Stream.NOISE, rank, step) for rank in range(3) for step in (1, 2)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_what_a_seed_means_stays():
    assert [seed_of(0, stream) for stream in Stream] == [
        *(3964924996, 3141116543, 2613022947, 1874364848, 161328693, 2617721224, 1369798745),
    ]
