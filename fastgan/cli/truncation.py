"""``fastgan truncation``."""

from fastgan.cli.options import Device, Frames, Model, Rows, Run, Seed, SequenceOut


def truncation(
    run: Run,
    model: Model = None,
    count: Rows = 4,
    frames: Frames = None,
    seed: Seed = 0,
    out: SequenceOut = None,
    device: Device = "auto",
) -> int:
    """Show truncation in model stylegan: from the average image (psi 0) to each image itself (1), a row each."""
    import torch

    from fastgan import sampling
    from fastgan.cli.trained import frames_of, load_trained, sequences

    trained = load_trained(run, device, model)
    generator = sampling.require_styles(trained.generator, "truncation")
    to = out or run / "truncation.png"
    sampling.check_output(to, animation=True)
    number = frames_of(frames, to)
    psi = torch.linspace(0, 1, number)
    w = sampling.map_latents(generator, trained.latents(count, seed))
    ways = sampling.linear(generator.w_mean.cpu().expand_as(w), w, number)
    images = sampling.render_styles(generator, ways.flatten(0, 1))
    names = [str(i) for i in range(count)]
    sheet = sequences(images, number, labels=None, names=names, values=psi, unit=".2f")
    return trained.write(sheet, to, f"Truncation of {count} images, {number} steps", seed)
