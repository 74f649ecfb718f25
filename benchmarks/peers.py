"""The other side: nnU-Net, MONAI, TorchIO, batchgeneratorsv2 and medpy, as their users call them.

Everything is imported when it is called, since none of it is needed for anything else; `make bench` installs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def nnunet_network(in_channels: int, classes: int, channels: Sequence[int]) -> nn.Module:
    """nnU-Net's PlainConvUNet of this layout, with deep supervision."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet
    from dynamic_network_architectures.initialization.weight_init import InitWeights_He

    stages = len(channels)
    network = PlainConvUNet(in_channels, stages, list(channels), nn.Conv3d, [3] * stages, [1] + [2] * (stages - 1),
                            [2] * stages, classes, [2] * (stages - 1), conv_bias=True, norm_op=nn.InstanceNorm3d,
                            norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU,
                            nonlin_kwargs={"inplace": True}, deep_supervision=True)
    return network.apply(InitWeights_He(1e-2))


def nnunet_step(images: Tensor, labels: Tensor, classes: int, channels: Sequence[int],
                device: torch.device) -> Callable[[], Any]:
    """nnU-Net's own train_step on this batch, (batch, channels, …) and (batch, …): its network, loss and optimiser."""
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    network = nnunet_network(images.shape[1], classes, channels).to(device)
    weights = np.array([0.5**level for level in range(len(channels) - 1)])
    weights[-1] = 0
    loss = DC_and_CE_loss({"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}, {}, weight_ce=1,
                          weight_dice=1, dice_class=MemoryEfficientSoftDiceLoss)
    trainer = SimpleNamespace(
        device=device, network=network, grad_scaler=torch.amp.GradScaler("cuda") if device.type == "cuda" else None,
        loss=DeepSupervisionWrapper(loss, weights / weights.sum()),
        optimizer=torch.optim.SGD(network.parameters(), 1e-2, weight_decay=3e-5, momentum=0.99, nesterov=True))
    target = [labels[:, None, ::2**level, ::2**level, ::2**level].contiguous() for level in range(len(channels) - 1)]
    return lambda: nnUNetTrainer.train_step(trainer, {"data": images, "target": target})


def nnunet_prediction(network: nn.Module, files: Sequence[str], out: Path, classes: int,
                      window: Sequence[int]) -> Callable[[], Any]:
    """nnU-Net's whole prediction of one case, from files to a saved label map, without mirroring, ready to run."""
    import os

    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ.setdefault(name, str(out))
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    channels = {str(number): "MR" for number in range(len(files))}
    labels = {"background": 0, **{f"class_{value}": value for value in range(1, classes)}}
    dataset = {"channel_names": channels, "labels": labels, "file_ending": ".nii.gz", "numTraining": 1}
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    statistics = dict.fromkeys(("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std"), 0.0)
    plans = PlansManager({
        "foreground_intensity_properties_per_channel": dict.fromkeys(channels, statistics),
        "dataset_name": "Dataset001_Benchmark", "plans_name": "nnUNetPlans", "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "configurations": {"3d_fullres": {
            "data_identifier": "benchmark", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2,
            "patch_size": list(window), "spacing": [1.0, 1.0, 1.0], "batch_dice": False,
            "normalization_schemes": ["ZScoreNormalization"] * len(files), "use_mask_for_norm": [True] * len(files),
            "resampling_fn_data": "resample_data_or_seg_to_shape",
            "resampling_fn_data_kwargs": resampling,
            "resampling_fn_seg": "resample_data_or_seg_to_shape",
            "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
            "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
            "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
            "architecture": {"network_class_name": "", "arch_kwargs": {}, "_kw_requires_import": []}}}})
    predictor = nnUNetPredictor(tile_step_size=0.5, use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.manual_initialization(network, plans, plans.get_configuration("3d_fullres"), [network.state_dict()],
                                    dataset, "nnUNetTrainer", None)
    return lambda: predictor.predict_from_files_sequential([list(files)], [str(out / "nnunet")])


def monai_prediction(network: nn.Module, files: Sequence[str], out: Path, window: Sequence[int],
                     precision: torch.dtype) -> Callable[[], Any]:
    """MONAI's transforms and SlidingWindowInferer over one case, from files to a saved label map, ready to run."""
    import nibabel
    from monai.inferers import SlidingWindowInferer
    from monai.transforms import LoadImage, NormalizeIntensity

    load = LoadImage(image_only=True, ensure_channel_first=True)
    normalise = NormalizeIntensity(nonzero=True, channel_wise=True)
    inferer = SlidingWindowInferer(window, sw_batch_size=1, overlap=0.5, mode="gaussian")

    def predict() -> None:
        image = normalise(torch.cat([load(file) for file in files]))
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            labels = inferer(image[None].as_tensor(), network).argmax(1)[0].to(torch.uint8)
        nibabel.save(nibabel.Nifti1Image(labels.numpy(), nibabel.load(files[0]).affine), out / "monai.nii.gz")

    return predict


def batchgenerators_augmentation(size: Sequence[int]) -> Callable[[Tensor, Tensor], Any]:
    """Mirror, rotation, scaling, elastic deformation and gamma of (channels, …) and (1, …), all of them every time."""
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

    angle = (-np.pi / 6, np.pi / 6)
    spatial = SpatialTransform(tuple(size), 0, False, p_elastic_deform=1, p_rotation=1, rotation=angle, p_scaling=1,
                               scaling=(0.7, 1.4), mode_seg="nearest")
    transforms = [spatial, GammaTransform((0.7, 1.5), 0, False, 1, 1), MirrorTransform((0, 1, 2))]

    def augment(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        data = {"image": images, "segmentation": labels}
        for transform in transforms:
            data = transform(**data)
        return data["image"], data["segmentation"]

    return augment


def monai_augmentation(size: Sequence[int]) -> Callable[[Tensor, Tensor], Any]:
    """The same with MONAI: affine and elastic in one pass."""
    from monai import transforms as made

    keys, angle = ["image", "label"], np.pi / 6
    compose = made.Compose([
        made.Rand3DElasticd(keys, sigma_range=(5, 8), magnitude_range=(50, 150), prob=1, rotate_range=(angle,) * 3,
                            scale_range=(0.3,) * 3, spatial_size=tuple(size), mode=["bilinear", "nearest"],
                            padding_mode="border"),
        *(made.RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in range(3)),
        made.RandAdjustContrastd(["image"], prob=1, gamma=(0.7, 1.5), retain_stats=True)])

    def augment(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        found = compose({"image": images, "label": labels})
        return found["image"].as_tensor(), found["label"].as_tensor()

    return augment


def torchio_augmentation(size: Sequence[int]) -> Callable[[Tensor, Tensor], Any]:
    """The same with TorchIO."""
    import torchio

    compose = torchio.Compose([
        torchio.RandomFlip(axes=(0, 1, 2)), torchio.RandomAffine(scales=(0.7, 1.4), degrees=30),
        torchio.RandomElasticDeformation(num_control_points=7, max_displacement=max(1, size[0] // 16)),
        torchio.RandomGamma(log_gamma=(-0.35, 0.4))])

    def augment(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        # gamma takes powers, which negative intensities have none of
        found = compose(torchio.Subject(image=torchio.ScalarImage(tensor=images - images.min()),
                                        label=torchio.LabelMap(tensor=labels)))
        return found.image.data, found.label.data

    return augment


def monai_metrics(answer: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float]) -> list[float]:
    """Dice, ASSD and HD95 of two masks by MONAI's calls."""
    from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance

    one, other = (torch.from_numpy(mask)[None, None] for mask in (answer, truth))
    spacing = list(spacing_mm)
    assd = compute_average_surface_distance(one, other, include_background=True, symmetric=True, spacing=spacing)
    hd95 = compute_hausdorff_distance(one, other, include_background=True, percentile=95, spacing=spacing)
    return [float(compute_dice(one, other, include_background=True)), float(assd), float(hd95)]


def medpy_metrics(answer: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float]) -> list[float]:
    """Dice, ASSD and (pooled) HD95 of two masks by medpy's calls."""
    from medpy.metric import binary

    return [float(binary.dc(answer, truth)), float(binary.assd(answer, truth, spacing_mm)),
            float(binary.hd95(answer, truth, spacing_mm))]
