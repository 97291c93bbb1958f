"""2x super-resolution of smooth textures; images are normalised with mean 0.5 / std 0.5."""
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

torch.manual_seed(8)
rng = np.random.default_rng(8)
HR = 24


class Textures(Dataset):
    def __init__(self, n):
        yy, xx = np.mgrid[:HR, :HR] / HR
        self.hr = []
        for _ in range(n):
            img = np.zeros((HR, HR))
            for _ in range(4):
                fx, fy = rng.uniform(-5, 5, 2)
                img += np.cos(2 * np.pi * (fx * xx + fy * yy) + rng.uniform(0, 6.28))
            img = (img - img.min()) / (img.max() - img.min())
            self.hr.append(img.astype(np.float32)[None])

    def __len__(self):
        return len(self.hr)

    def __getitem__(self, i):
        hr = torch.from_numpy(self.hr[i])
        hr = (hr - 0.5) / 0.5
        lr = F.avg_pool2d(hr, 2)
        return lr, hr


class ESPCN(nn.Module):
    def __init__(self, c=24):
        super().__init__()
        self.conv1 = nn.Conv2d(1, c, 5, padding=2)
        self.conv2 = nn.Conv2d(c, c, 3, padding=1)
        self.conv3 = nn.Conv2d(c, 4, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x):
        x = torch.tanh(self.conv1(x))
        x = torch.tanh(self.conv2(x))
        x = self.shuffle(self.conv3(x))
        return torch.sigmoid(x)


train, val = Textures(500), Textures(100)
loader = DataLoader(train, batch_size=16, shuffle=True)
model = ESPCN()
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
criterion = nn.MSELoss()

for epoch in range(10):
    total = 0
    for lr_img, hr_img in loader:
        optimizer.zero_grad()
        loss = criterion(model(lr_img), hr_img)
        loss.backward()
        optimizer.step()
        total += loss.item()
    print(f"epoch {epoch} mse {total / len(loader):.5f}")

model.eval()
with torch.no_grad():
    lr_img, hr_img = next(iter(DataLoader(val, batch_size=100)))
    mse = criterion(model(lr_img), hr_img).item()
    ref = criterion(F.interpolate(lr_img, scale_factor=2, mode="bicubic"), hr_img).item()
print(f"bicubic PSNR {10 * np.log10(4 / ref):.2f} dB")
print(f"val PSNR {10 * np.log10(4 / mse):.2f} dB")
