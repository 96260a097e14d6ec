"""``fastgan generate``."""

from typing import Annotated

import typer

from fastgan.cli.options import Class, Device, Model, PictureOut, Run, Seed, Truncation


def generate(
    run: Run,
    model: Model = None,
    count: Annotated[int, typer.Option(min=1, metavar="N", help="Number of images.")] = 64,
    seed: Seed = 0,
    class_: Class = None,
    truncation: Truncation = 1.0,
    numbered: Annotated[bool, typer.Option("--numbered", help="Write numbers and classes on the grid.")] = False,
    out: PictureOut = None,
    device: Device = "auto",
) -> int:
    """Generate images with the EMA generator of a run: by default a folder with a grid and one PNG each.

    Points of the plane become a scatter plot and a table.
    """
    from fastgan import sampling
    from fastgan.cli.trained import load_trained

    trained = load_trained(run, device, model)
    labels = trained.labels(count, class_)
    sampling.check_truncation(trained.generator, truncation)
    path = out or run / "generated"
    sampling.check_output(path)
    of_classes, columns, column_names = "", None, []
    class_names = getattr(trained.generator, "class_names", None)
    if class_ is not None:
        of_classes = f" of class {class_}"
    elif labels is not None:
        num_classes = trained.generator.num_classes
        of_classes = f" of classes 0 to {num_classes - 1} in turn"
        columns = sampling.columns_by_class(count, num_classes)
        if columns is not None:
            column_names = [class_names[k] if class_names else str(k) for k in labels[:columns].tolist()]
    images = sampling.generate(trained.generator, count, labels=labels, truncation=truncation, seed=seed)
    columns = sampling.columns_of(count, columns)
    arrays = {"seed": seed} | ({} if labels is None else {"labels": labels.numpy()})
    row_names = [f"{i} ..." for i in range(0, count, columns)]
    names = (row_names if numbered else (), column_names if numbered or class_names else ())
    sheet = sampling.Sheet(images, columns, *names, arrays)
    return trained.write(sheet, path, f"{count} images{of_classes}", seed)
