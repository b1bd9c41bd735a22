"""The table of networks; each family of architectures has its own file.

A row says for what a network can be used (task, number of spatial dimensions, patch sizes) and how
to build it. Initial weights come from torch's global generator, so the caller decides them with
`torch.manual_seed`. The code that builds a network is imported when it is called (models.late):
this table loads in milliseconds.
"""

from functools import partial

from models.late import late
from models.spec import CHANNELS, SMALL_CHANNELS, Model, Setting, by_children, multiples

__all__ = ["MODELS", "Model", "Setting", "by_children"]

_cnn = late("models.classification.cnn")
_convnext = late("models.classification.convnext")
_densenet = late("models.classification.densenet")
_inception = late("models.classification.inception")
_mobile = late("models.classification.mobile")
_resnet = late("models.classification.resnet")
_vgg = late("models.classification.vgg")
_video = late("models.classification.video")
_vit = late("models.classification.vit")
_dynunet = late("models.segmentation.dynunet")
_late_fusion = late("models.segmentation.late_fusion")
_mednext = late("models.segmentation.mednext")
_resenc = late("models.segmentation.resenc")
_resnet_unet = late("models.segmentation.resnet_unet")
_segresnet = late("models.segmentation.segresnet")
_transformers = late("models.segmentation.transformers")
_unet = late("models.segmentation.unet")

_RESNETS = tuple(
    Model(
        name=f"resnet{depth}",
        build=partial(_resnet.resnet, depth=depth),
        tasks=("classification",),
        dims=(2, 3),
        divisor=1,
        min_size=8,
        settings={"dropout": 0.0},
        weights=f"ResNet{depth}_Weights.IMAGENET1K_V1",
        first="conv1.weight",
        summary=f"residual network of {depth} layers; no downsampling stem below 64 pixels",
        source="He et al. 2016, arXiv 1512.03385; torchvision in 2-D, MONAI in 3-D",
    )
    for depth in (18, 34, 50)
)

_MOBILENETS = tuple(
    Model(
        name=f"mobilenet_v3_{size}",
        build=partial(_mobile.mobilenet_v3, size=size),
        tasks=("classification",),
        dims=(2,),
        divisor=1,
        min_size=8,
        settings={"dropout": 0.2},
        stages=by_children("features", "classifier"),
        weights=f"MobileNet_V3_{size.title()}_Weights.IMAGENET1K_V1",
        first="features.0.0.weight",
        summary=f"the {size} MobileNet-V3, for real-time use; downsamples later below 64 pixels",
        source="Howard et al. 2019, arXiv 1905.02244; torchvision",
    )
    for size in ("small", "large")
)

_VITS = tuple(
    Model(
        name=f"vit_{size}16",
        build=partial(_vit.vit, width=width, heads=heads),
        tasks=("classification",),
        dims=(2,),
        divisor=1,
        min_size=8,
        settings={"dropout": 0.0},
        stages=_vit.vit_stages,
        weights=weights,
        first=weights and "conv_proj.weight",
        summary=f"{about} vision transformer, {width} features per token of 16 x 16 pixels, of 4 x"
        " 4 below 64 pixels",
        source=f"{source}; layers of torchvision's",
    )
    for size, about, width, heads, weights, source in (
        ("s", "small", 384, 6, None, "Touvron et al. 2021, arXiv 2012.12877, DeiT-S undistilled"),
        (
            *("b", "base", 768, 12, "ViT_B_16_Weights.IMAGENET1K_V1"),
            "Dosovitskiy et al. 2021, arXiv 2010.11929, ViT-B/16",
        ),
    )
)

_CLASSIFIERS = (
    Model(
        name="plain_cnn",
        build=_cnn.plain_cnn,
        tasks=("classification",),
        dims=(2, 3),
        divisor=1,
        min_size=8,
        settings={"pool": "max", "dropout": 0.0},
        choices={"pool": ("max", "average")},
        summary="convolution, ReLU, pooling, two fully connected layers; no normalisation",
        source="the unoptimized baseline of Xue, optimization of CNNs for medical images",
    ),
    Model(
        name="vgg_small",
        build=_cnn.vgg_small,
        tasks=("classification",),
        dims=(2, 3),
        divisor=1,
        min_size=8,
        settings={"dropout": 0.0},
        summary="pairs of convolutions with batch normalisation, 16-32-64 channels, mean pooling",
        source="Simonyan and Zisserman 2015, arXiv 1409.1556, made small",
    ),
    *_RESNETS,
    Model(
        name="densenet121",
        build=_densenet.densenet121,
        tasks=("classification",),
        dims=(2, 3),
        divisor=1,
        min_size=8,
        settings={"dropout": 0.0},
        stages=by_children("features", "class_layers"),
        weights="DenseNet121_Weights.IMAGENET1K_V1",
        first="features.conv0.weight",
        summary="every layer sees all layers before it; no downsampling stem below 64 pixels",
        source="Huang et al. 2017, arXiv 1608.06993; torchvision in 2-D, MONAI in 3-D",
    ),
    Model(
        name="vgg16",
        build=_vgg.vgg16,
        tasks=("classification",),
        dims=(2,),
        divisor=1,
        min_size=8,
        settings={"dropout": 0.5},
        stages=by_children("features", "classifier"),
        weights="VGG16_BN_Weights.IMAGENET1K_V1",
        first="features.0.weight",
        summary="VGG-16 with batch normalisation, 138 million parameters",
        source="Simonyan and Zisserman 2015, arXiv 1409.1556; torchvision's vgg16_bn",
    ),
    Model(
        name="inception_v3",
        build=_inception.inception_v3,
        tasks=("classification",),
        dims=(2,),
        divisor=1,
        min_size=21,
        settings={"dropout": 0.5},
        weights="Inception_V3_Weights.IMAGENET1K_V1",
        first="Conv2d_1a_3x3.conv.weight",
        summary="Inception-v3 without auxiliary logits; downsamples later below 75 pixels",
        source="Szegedy et al. 2016, arXiv 1512.00567; torchvision",
    ),
    *_MOBILENETS,
    Model(
        name="efficientnet_b0",
        build=_mobile.efficientnet_b0,
        tasks=("classification",),
        dims=(2,),
        divisor=1,
        min_size=8,
        settings={"dropout": 0.2},
        stages=by_children("features", "classifier"),
        weights="EfficientNet_B0_Weights.IMAGENET1K_V1",
        first="features.0.0.weight",
        summary="inverted residuals, scaled evenly; downsamples later below 64 pixels",
        source="Tan and Le 2019, arXiv 1905.11946; torchvision",
    ),
    Model(
        name="efficientnet_v2_s",
        build=_mobile.efficientnet_v2_s,
        tasks=("classification",),
        dims=(2,),
        divisor=1,
        min_size=8,
        settings={"dropout": 0.2},
        stages=by_children("features", "classifier"),
        weights="EfficientNet_V2_S_Weights.IMAGENET1K_V1",
        first="features.0.0.weight",
        summary="inverted residuals, fused where feature maps are large; downsamples later below 64"
        " pixels",
        source="Tan and Le 2021, arXiv 2104.00298; torchvision",
    ),
    Model(
        name="convnext_tiny",
        build=_convnext.convnext_tiny,
        tasks=("classification",),
        dims=(2,),
        divisor=1,
        min_size=8,
        settings={"dropout": 0.0},
        stages=by_children("features", "classifier"),
        weights="ConvNeXt_Tiny_Weights.IMAGENET1K_V1",
        first="features.0.0.weight",
        summary="a convolutional network designed like a transformer; no downsampling stem below 64"
        " pixels",
        source="Liu et al. 2022, arXiv 2201.03545, ConvNeXt-T; torchvision",
    ),
    *_VITS,
)

_SEGMENTERS = (
    Model(
        name="unet",
        build=partial(_unet.unet, channels=CHANNELS, residual_units=0),
        tasks=("segmentation",),
        dims=(2, 3),
        divisor=8,
        min_size=16,
        settings={"dropout": 0.0},
        stages=_unet.unet_stages,
        whole=partial(multiples, 8),
        summary="U-Net, 16-32-64-128 channels, instance normalisation; early fusion of channels",
        source="Ronneberger et al. 2015, arXiv 1505.04597; MONAI's UNet",
    ),
    Model(
        name="unet_small",
        build=partial(_unet.unet, channels=SMALL_CHANNELS, residual_units=0),
        tasks=("segmentation",),
        dims=(2, 3),
        divisor=4,
        min_size=8,
        settings={"dropout": 0.0},
        stages=_unet.unet_stages,
        whole=partial(multiples, 4),
        summary="U-Net, 8-16-32 channels, instance normalisation: for laptops and the demo",
        source="Ronneberger et al. 2015, arXiv 1505.04597; MONAI's UNet",
    ),
    Model(
        name="unet_res",
        build=partial(_unet.unet, channels=CHANNELS, residual_units=2),
        tasks=("segmentation",),
        dims=(2, 3),
        divisor=8,
        min_size=16,
        settings={"dropout": 0.0},
        stages=_unet.unet_stages,
        whole=partial(multiples, 8),
        summary="the unet with residual units of two convolutions at each level",
        source="Kerfoot et al. 2019, doi 10.1007/978-3-030-12029-0_40; MONAI's UNet",
    ),
    Model(
        name="unet_late",
        build=_late_fusion.unet_late,
        tasks=("segmentation",),
        dims=(2, 3),
        divisor=8,
        min_size=16,
        settings={"dropout": 0.0},
        stages=_late_fusion.late_stages,
        whole=partial(multiples, 8),
        summary="the unet with an encoder for each channel, fused at every level",
        source="layer-level fusion in Zhou et al. 2019, arXiv 2004.10664, section 3.2",
    ),
    Model(
        name="attention_unet",
        build=_unet.attention_unet,
        tasks=("segmentation",),
        dims=(2, 3),
        divisor=8,
        min_size=16,
        settings={"dropout": 0.0},
        stages=_unet.attention_stages,
        whole=partial(multiples, 8),
        summary="U-Net with skips gated by the coarser level, 16-32-64-128 channels",
        source="Oktay et al. 2018, arXiv 1804.03999; MONAI's AttentionUnet",
    ),
    Model(
        name="segresnet",
        build=_segresnet.segresnet,
        tasks=("segmentation",),
        dims=(2, 3),
        divisor=8,
        min_size=16,
        settings={"dropout": 0.2},
        stages=_segresnet.segresnet_stages,
        whole=partial(multiples, 8),
        summary="residual encoder, light decoder, group normalisation, 16 to 128 channels",
        source="Myronenko 2018, arXiv 1810.11654, without the VAE branch; MONAI's SegResNet",
    ),
    Model(
        name="dynunet",
        build=_dynunet.DynUNet,
        tasks=("segmentation",),
        dims=(2, 3),
        divisor=4,
        min_size=8,
        settings={"dropout": 0.0},
        stages=by_children("encoder", "decoder"),
        whole=_dynunet.multiples,
        summary="nnU-Net's U-Net: planned from the patch, 32 to 320 or 512 channels, supervised"
        " at every level",
        source="Isensee et al. 2021, doi 10.1038/s41592-020-01008-z; blocks of MONAI's DynUNet",
    ),
    Model(
        name="mednext_s",
        build=_mednext.mednext_s,
        tasks=("segmentation",),
        dims=(2, 3),
        divisor=16,
        min_size=16,
        stages=_mednext.mednext_stages,
        whole=partial(multiples, 16),
        summary="ConvNeXt blocks in a U-Net, kernel 3, supervised at every level",
        source="Roy et al. 2023, arXiv 2303.09975, MedNeXt-S; blocks of MONAI's MedNeXt",
    ),
    Model(
        name="resenc_unet",
        build=_resenc.ResEncUNet,
        tasks=("segmentation",),
        dims=(2, 3),
        divisor=4,
        min_size=8,
        settings={"dropout": 0.0},
        stages=_resenc.resenc_stages,
        whole=_dynunet.multiples,
        summary="nnU-Net's ResEnc U-Net: planned as dynunet, 1 to 6 residual blocks per encoder"
        " level, supervised at every level",
        source="Isensee et al. 2024, arXiv 2404.09556; blocks of dynamic_network_architectures",
    ),
    Model(
        name="unetr",
        build=_transformers.unetr,
        tasks=("segmentation",),
        dims=(2, 3),
        divisor=16,
        min_size=16,
        settings={"dropout": 0.0},
        stages=by_children("vit", "vit.blocks"),
        summary="vision transformer as the encoder of a U-Net, 768 features per token of 16 voxels"
        " a side",
        source="Hatamizadeh et al. 2022, arXiv 2103.10504; MONAI's UNETR",
    ),
    Model(
        name="swin_unetr",
        build=_transformers.swin_unetr,
        tasks=("segmentation",),
        dims=(2, 3),
        divisor=32,
        min_size=32,
        settings={"dropout": 0.0},
        stages=by_children("swinViT"),
        whole=partial(multiples, 32),
        summary="a transformer of shifted windows as the encoder of a U-Net, 48 to 768 channels",
        source="Hatamizadeh et al. 2022, arXiv 2201.01266; MONAI's SwinUNETR",
    ),
    Model(
        name="unet_resnet_both",
        build=_resnet_unet.ResNetUNet,
        tasks=("segmentation",),
        dims=(2, 3),
        divisor=1,
        min_size=8,
        settings={"dropout": 0.0},
        weights="ResNet18_Weights.IMAGENET1K_V1",
        first="conv1.weight",
        summary="U-Net on a ResNet-18 that segments and says which classes a patch holds",
        source="Mehta et al. 2018, arXiv 1806.01313 (Y-Net): a decoder and a classifier on one"
        " encoder",
    ),
)

_ENCODERS = {row.name: row for row in _CLASSIFIERS if 2 in row.dims}

_CLIPS = tuple(
    Model(
        name=name,
        build=partial(build, encoders=_ENCODERS),
        tasks=("classification",),
        dims=(3,),
        divisor=1,
        min_size=1,
        settings={"encoder": "resnet18", "dropout": 0.0},
        choices={"encoder": tuple(_ENCODERS)},
        encoders=_ENCODERS,
        stages=_video.clip_stages,
        summary=summary,
        source=source,
    )
    for name, build, summary, source in (
        (
            "cnn_lstm",
            _video.cnn_lstm,
            "cine loops: a 2-D network on every frame, an LSTM over the frames",
            "Donahue et al. 2015, arXiv 1411.4389; the hybrid of Skalozub et al. for ultrasound",
        ),
        (
            "frame_cnn",
            _video.frame_cnn,
            "cine loops: a 2-D network on every frame, the mean of their logits; ignores order",
            "what cnn_lstm is compared with: mean pooling in Donahue et al. 2015, section 4.1",
        ),
    )
)

MODELS: dict[str, Model] = {row.name: row for row in (*_CLASSIFIERS, *_SEGMENTERS, *_CLIPS)}
