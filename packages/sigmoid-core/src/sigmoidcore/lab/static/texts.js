// All words of the page, in English and Chinese.

const EN = {
    lab: "lab", start: "Start", pause: "Pause", step: "Step", reset: "Reset", transport: "Training", menu: "Tools",
    tour: "Tour", share: "Share", code: "Code", report: "Report", setup: "Set-up", layers: "Layer by layer",
    results: "Results and the chosen layer", profile: "Gradient size of every layer", heat: "Gradient by layer and step",
    vanished: "vanished", strong: "strongest layer", strip: "Neurons of every layer", saturated: "saturated", open: "open",
    slopes: "Slope α of every layer", loss: "Training loss", surface: "Decision of the network", fit: "Fit of the points",
    answers: "Answers to test digits", nothing: "no picture for these data", whole: "whole layer",
    input: "input", toLoss: "loss", back: "Back", next: "Next", end: "End", save: "Download", copy: "Copy", copied: "Copied",
    close: "Close", waiting: "building the networks …", lost: "The connection to the lab is lost; trying again …",
    again: "The lab was started again with the same set-up. The training, which was at step {step}, is lost.",
    layer: "Layer {layer}", neuron: "Layer {layer}, neuron {neuron}", clock: "step {step}", accuracy: "Test accuracy, %",
    R2: "Test R²", slope: "α = {value}", noSlope: "no slope to set", setSlope: "Slope of layer {layer}, network {name}",
    openShare: "share of open inputs", reach: "first layer {value} times the last", none: "nothing at the first layer",
    shareHint: "Whoever has this lab running opens your set-up with this address.",
    codeHint: "A script that repeats this training, up to this step. Slopes set by hand and accidents are not in it.",
    valueText: "layer {layer} of {layers}: {parts}", gradient: "network {name}: gradient {value}",
    summary: "Step {step}. {parts}",
    summaryPart: "Network {name}, {kind}: loss {loss}, {metric} {score}; gradient: {reach}.",
    data: "Data", depth: "Hidden layers", width: "Neurons per layer", batch: "Batch", seed: "Seed", kind: "Network {name}",
    accident: "Accident", tripled: "weights × 3", moved: "inputs + 5", shut: "half a layer shut",
    saturation: "Saturation level", rate: "Learning rate", optimizer: "Optimizer", equalizer: "Equalizer",
    moons: "Moons", spirals: "Spirals", rings: "Rings", article: "Six points", digits: "Digits", own: "Your own",
    sigmoid: "Sigmoid", "sigmoid-core": "Sigmoid Core", tanh: "Tanh", relu: "ReLU, He", resnet: "ResNet",
    batchnorm: "BatchNorm", adam: "Adam", sgd: "SGD",
    guide: [
        ["Three layers learn", "Two networks get the same data, the same seed and the same batches: A with plain sigmoids, B with Sigmoid Core. With three layers both learn. Watch the gradient profile: the input is on the left, the loss on the right."],
        ["Thirty layers: the gradient vanishes", "The same sigmoids, thirty layers deep. On its way from the loss to the input, the gradient of A shrinks at every layer: σ′(z) is at most 1/4. On the log axis that is a straight line down. The first layers learn nothing, so the loss stays where it is."],
        ["One layer, and its slope", "Every layer multiplies the gradient by α σ′(z) and by its weights. The outlined card shows layer 15: the sigmoid, the histogram of z under it, the derivative over it. Drag the slope α of network A: the derivative grows with α. Too much, and z leaves the middle: the neurons saturate."],
        ["The cure: one slope for every layer", "Sigmoid Core sets each slope so that a layer multiplies the gradient by 1. B is a hundred sigmoids deep, and its profile is level. No skip connections, no normalisation. The first dozens of layers of A get no gradient at all."],
        ["Keep it level", "Training moves the weights, and the profile with them. The Equalizer sets a layer back when it leaves its band. Here both networks are Sigmoid Core; only B has the Equalizer. After some 60 steps, let an accident happen: triple the weights, and see which network comes back. Now try your own: 1,000 layers, spirals, ResNet, BatchNorm."],
    ],
};

const ZH = {
    lab: "实验室", start: "开始", pause: "暂停", step: "单步", reset: "重置", transport: "训练", menu: "工具",
    tour: "导览", share: "分享", code: "代码", report: "诊断", setup: "设置", layers: "逐层观察",
    results: "结果与所选的层", profile: "各层梯度大小", heat: "梯度：层 × 步", vanished: "消失", strong: "最强的层",
    strip: "各层神经元", saturated: "饱和", open: "畅通", slopes: "各层斜率 α", loss: "训练损失", surface: "网络的决策区域",
    fit: "对各点的拟合", answers: "测试数字的识别结果", nothing: "这些数据画不出图", whole: "整层",
    input: "输入", toLoss: "损失", back: "上一步", next: "下一步", end: "结束", save: "下载", copy: "复制", copied: "已复制",
    close: "关闭", waiting: "正在构建网络……", lost: "与实验室的连接已断开，正在重试……",
    again: "实验室已重新启动，设置不变；此前训练到第 {step} 步的结果已丢失。",
    layer: "第 {layer} 层", neuron: "第 {layer} 层，神经元 {neuron}", clock: "第 {step} 步", accuracy: "测试准确率，%",
    R2: "测试 R²", slope: "α = {value}", noSlope: "没有可调的斜率", setSlope: "网络 {name} 第 {layer} 层的斜率",
    openShare: "未饱和的输入所占比例", reach: "第一层是最后一层的 {value} 倍", none: "第一层没有梯度",
    shareHint: "对方的电脑上也在运行本实验室时，打开这个地址就是你的设置。",
    codeHint: "这段脚本把本次训练重现到当前这一步，不包括手动调的斜率和制造的突发故障。",
    valueText: "第 {layer} 层，共 {layers} 层：{parts}", gradient: "网络 {name}：梯度 {value}",
    summary: "第 {step} 步。{parts}", summaryPart: "网络 {name}，{kind}：损失 {loss}，{metric} {score}；梯度：{reach}。",
    data: "数据", depth: "隐藏层数", width: "每层神经元", batch: "批大小", seed: "随机种子", kind: "网络 {name}",
    accident: "突发故障", tripled: "权重 × 3", moved: "输入 + 5", shut: "关掉半层",
    saturation: "饱和程度", rate: "学习率", optimizer: "优化器", equalizer: "均衡器 (Equalizer)",
    moons: "双月", spirals: "螺旋", rings: "圆环", article: "六个点", digits: "数字", own: "你的数据",
    sigmoid: "Sigmoid", "sigmoid-core": "Sigmoid Core", tanh: "Tanh", relu: "ReLU，He", resnet: "ResNet",
    batchnorm: "BatchNorm", adam: "Adam", sgd: "SGD",
    guide: [
        ["三层：都能学会", "两个网络的数据、随机种子和批次都相同：A 用普通的 sigmoid，B 用 Sigmoid Core。只有三层时，两个都能学会。请看梯度剖面：左边是输入，右边是损失。"],
        ["三十层：梯度消失", "还是这些 sigmoid，这次叠到三十层。从损失传回输入的路上，A 的梯度每过一层就缩小一次，因为 σ′(z) 最大只有 1/4；在对数轴上，这是一条一路下降的直线。前面几层什么也学不到，损失停在原地。"],
        ["一层和它的斜率", "每一层都把梯度乘以 α σ′(z) 和权重。框出的是第 15 层：sigmoid 曲线，下方是 z 的直方图，虚线是导数。拖动网络 A 的斜率 α 试试：α 越大，导数越大；但 α 太大时，z 会离开中段，神经元就饱和了。"],
        ["解决办法：给每一层合适的斜率", "Sigmoid Core 设定每个斜率，使每一层恰好把梯度乘以 1。B 有一百层 sigmoid，没有跳跃连接，也没有归一化，梯度剖面却是平的。A 的前几十层一点梯度也得不到。"],
        ["训练中也保持平直", "训练会改变权重，梯度剖面也跟着变。某一层超出允许的范围时，均衡器就把它恢复。这里两个网络都是 Sigmoid Core，但只有 B 有均衡器。训练约 60 步后制造一次突发故障：把权重乘以 3，看哪个网络能恢复。接下来请自己试：1,000 层、螺旋、ResNet、BatchNorm。"],
    ],
};

const asked = new URLSearchParams(location.search).get("lang");
export const language = asked ?? (navigator.language.startsWith("zh") ? "zh" : "en");
const texts = language === "zh" ? ZH : EN;

/** A text in the language of the page, with its placeholders filled. */
export function t(key, values = {}) {
    const text = texts[key] ?? key;
    return typeof text === "string" ? text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole) : text;
}

/** Fill in the words of the HTML. */
export function translate() {
    document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
    for (const element of document.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
    for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", t(element.dataset.label));
}
